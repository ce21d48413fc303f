package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"containerd-shim-uni/integration/conformance"
	"containerd-shim-uni/integration/image"
	"containerd-shim-uni/integration/peer"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pause is the image of pods.
const pause = "uni.local/pause:latest"

// handlers are the names of the runtimes in the node's configuration.
var handlers = []string{"uni", "runc"}

// node is a containerd as a kubelet has it, in a network namespace of its own.
type node struct {
	*peer.Peer
	api  cri.RuntimeServiceClient
	dir  string
	made int
}

// pods measures pods on both runtimes in turn; at is how many are made at once, 0 for
// none.
func (b *bench) pods(ctx context.Context, runs, at int, t *table) (err error) {
	n, end, err := b.node(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	for _, h := range handlers { // disks are built and capabilities probed then
		if _, err := n.life(ctx, h, 1); err != nil {
			return err
		}
	}
	all := map[string][]lifetime{}
	for range runs {
		for _, h := range handlers {
			l, err := n.life(ctx, h, 3)
			if err != nil {
				return err
			}
			all[h] = append(all[h], l)
		}
	}
	t.head(fmt.Sprintf("a pod of three busyboxes, in turn (medians of %d, lowest)", runs))
	for _, row := range []struct {
		name string
		of   func(lifetime) time.Duration
	}{
		{"RunPodSandbox to Ready", func(l lifetime) time.Duration { return l.ready }},
		{"StartContainer of the first", func(l lifetime) time.Duration { return l.starts[0] }},
		{"StartContainer of the second", func(l lifetime) time.Duration { return l.starts[1] }},
		{"all four, until they run", func(l lifetime) time.Duration { return l.all }},
		{"StopPodSandbox, RemovePodSandbox", func(l lifetime) time.Duration { return l.end }},
		{"48 MB to an emptyDir, synchronized", func(l lifetime) time.Duration { return l.write }},
		{"CPU time of the host's processes by then", func(l lifetime) time.Duration { return l.cpu }},
	} {
		medians := map[string]time.Duration{}
		for _, h := range handlers {
			var list []time.Duration
			for _, l := range all[h] {
				list = append(list, row.of(l))
			}
			t.ms(row.name+", "+h, list)
			medians[h] = median(list)
		}
		t.line("ratio of the medians", "%7.1f", float64(medians["uni"])/float64(max(medians["runc"], time.Millisecond)))
	}
	if err := n.idle(ctx, t); err != nil || at == 0 {
		return err
	}
	return n.atOnce(ctx, at, t)
}

// lifetime is what the parts of a pod's life took.
type lifetime struct {
	ready, all, end, write, cpu time.Duration
	starts                      []time.Duration
}

// life makes a pod of so many containers and removes it.
func (n *node) life(ctx context.Context, handler string, containers int) (l lifetime, err error) {
	begin := time.Now()
	p, err := n.run(ctx, handler)
	if err != nil {
		return l, err
	}
	l.ready = time.Since(begin)
	id := ""
	for i := range containers {
		var took time.Duration
		if id, took, err = n.add(ctx, p, i); err != nil {
			return l, err
		}
		l.starts = append(l.starts, took)
	}
	l.all = time.Since(begin)
	if l.cpu, err = n.cpu(); err != nil {
		return l, err
	}
	begin = time.Now()
	r, err := n.api.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Timeout: 60,
		Cmd: []string{"dd", "if=/dev/zero", "of=/data/file", "bs=1M", "count=48", "conv=fsync"}})
	if err != nil || r.ExitCode != 0 {
		return l, fmt.Errorf("write: %v, %w", r, err)
	}
	l.write = time.Since(begin)
	begin = time.Now()
	err = n.remove(ctx, p)
	l.end = time.Since(begin)
	return l, err
}

// madePod is a pod that runs.
type madePod struct {
	id, data string
	config   *cri.PodSandboxConfig
}

func (n *node) run(ctx context.Context, handler string) (madePod, error) {
	n.made++
	name := fmt.Sprintf("pod%d", n.made)
	return n.runAs(ctx, handler, name)
}

func (n *node) runAs(ctx context.Context, handler, name string) (madePod, error) {
	p := madePod{data: filepath.Join(n.dir, "pods", name), config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"}, Hostname: name, Linux: &cri.LinuxPodSandboxConfig{},
		Annotations: map[string]string{"io.containerd.uni.vcpus": "1"}, // without KVM two may end a boot, see docs/pods.md
	}}
	if err := os.MkdirAll(p.data, 0o755); err != nil {
		return p, err
	}
	r, err := n.api.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: handler})
	if err != nil {
		return p, fmt.Errorf("run a pod with %s: %w", handler, err)
	}
	p.id = r.PodSandboxId
	return p, nil
}

// add creates a container that sleeps and returns how long its start took.
func (n *node) add(ctx context.Context, p madePod, i int) (id string, took time.Duration, err error) {
	c, err := n.api.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: fmt.Sprintf("c%d", i)}, Image: &cri.ImageSpec{Image: busybox}, Command: []string{"sleep", "1000"},
		Mounts: []*cri.Mount{{ContainerPath: "/data", HostPath: p.data}}, Linux: &cri.LinuxContainerConfig{},
	}})
	if err != nil {
		return "", 0, fmt.Errorf("create a container: %w", err)
	}
	begin := time.Now()
	if _, err := n.api.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return "", 0, fmt.Errorf("start a container: %w", err)
	}
	return c.ContainerId, time.Since(begin), nil
}

func (n *node) remove(ctx context.Context, p madePod) error {
	if _, err := n.api.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return fmt.Errorf("stop a pod: %w", err)
	}
	if _, err := n.api.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return fmt.Errorf("remove a pod: %w", err)
	}
	return nil
}

// cpu is what the processes of the node's pods have run for (proc(5), schedstat of all
// threads): those of runc's containers are not known by their command lines, and do
// nothing.
func (n *node) cpu() (total time.Duration, err error) {
	for _, pid := range n.Processes() {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, file := range threads {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // it has ended
			}
			ran, _, _ := strings.Cut(string(text), " ")
			ns, err := strconv.ParseInt(ran, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
			total += time.Duration(ns)
		}
	}
	return total, nil
}

// idle shows the memory of pods that do nothing.
func (n *node) idle(ctx context.Context, t *table) error {
	t.head(fmt.Sprintf("memory on the host of an idle pod, %s after its start (PSS of shim, QEMU and virtiofsd; of runc's shim)", rest))
	for _, containers := range []int{1, 3} {
		for _, h := range handlers {
			p, err := n.run(ctx, h)
			if err != nil {
				return err
			}
			for i := range containers {
				if _, _, err := n.add(ctx, p, i); err != nil {
					return err
				}
			}
			time.Sleep(rest)
			var all int64
			for _, pid := range n.Processes() {
				bytes, _, err := pss(pid, 0)
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
				all += bytes
			}
			t.line(fmt.Sprintf("%d containers, %s", containers, h), "%7.1f MiB", mib(all))
			if err := n.remove(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// atOnce makes many pods at the same time.
func (n *node) atOnce(ctx context.Context, count int, t *table) error {
	t.head(fmt.Sprintf("%d pods of one container at once", count))
	for _, h := range handlers {
		begin := time.Now()
		list, errs := make([]madePod, count), make([]error, count)
		var all sync.WaitGroup
		for i := range count {
			all.Go(func() {
				if list[i], errs[i] = n.runAs(ctx, h, fmt.Sprintf("%s-%d", h, i)); errs[i] == nil {
					_, _, errs[i] = n.add(ctx, list[i], 0)
				}
			})
		}
		all.Wait()
		t.line("until all run, "+h, "%7.1f s", time.Since(begin).Seconds())
		for _, p := range list {
			if p.id != "" {
				errs = append(errs, n.remove(ctx, p))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// node starts the containerd of pods; end stops it.
func (b *bench) node(ctx context.Context) (n *node, end func() error, err error) {
	dir, err := os.MkdirTemp("", "uni-")
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, nil, err
	}
	netns := filepath.Base(dir)
	ip := func(args ...string) error {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	clean := func() error { return errors.Join(ip("netns", "del", netns), os.RemoveAll(dir)) }
	if err := ip("netns", "add", netns); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	programs := filepath.Join(b.cache, "peers")
	plugin, err := conformance.Tool(b.cache, "tools-*", "bridge")
	if err != nil {
		return nil, nil, errors.Join(err, clean())
	}
	deploy, err := filepath.Abs("deploy")
	if err != nil {
		return nil, nil, errors.Join(err, clean())
	}
	p, err := peer.Start(ctx, peer.Options{
		Version: version, Programs: programs, Dir: dir, Namespace: "k8s.io", Marks: []string{b.state}, Path: b.Path, Env: b.Env,
		Wrap: []string{"nsenter", "--net=/run/netns/" + netns},
		CRI:  &peer.CRI{Plugins: filepath.Dir(plugin), Network: conformance.PodNetwork(dir), Pause: pause, Deploy: deploy},
	})
	if err != nil {
		return nil, nil, errors.Join(err, clean())
	}
	end = func() error { return errors.Join(p.Stop(), clean()) }
	n = &node{Peer: p, dir: dir}
	conn, err := grpc.NewClient("unix://"+p.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		n.api = cri.NewRuntimeServiceClient(conn)
		err = n.images(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return n, end, nil
}

// images imports what pods run.
func (n *node) images(ctx context.Context) error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	box, err := image.Busybox(busybox, path)
	if err != nil {
		return err
	}
	own, err := image.Pause(pause, path)
	if err != nil {
		return err
	}
	return (&bench{Peer: n.Peer}).load(ctx, n.dir, box, own)
}
