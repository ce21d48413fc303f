package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/integration/conformance"
	"containerd-shim-uni/integration/image"
	"containerd-shim-uni/integration/peer"

	"golang.org/x/sys/unix"
)

// pause is the image of sandboxes.
const pause = "uni.local/pause:latest"

// node is a containerd as a kubelet has it, in a network namespace of its own and
// driven by crictl.
type node struct {
	*host
	netns  netns
	crictl string
	made   int // pods, for their names
}

// onNodes runs a test against the service of each containerd version, and
// afterwards looks for what it left behind.
func onNodes(t *testing.T, test func(*testing.T, *node)) {
	t.Helper()
	for _, v := range versions {
		t.Run(v, func(t *testing.T) { test(t, newNode(t, v)) })
	}
}

// onAllNodes is onNodes, and runs it also where pods are made by the shim.
func onAllNodes(t *testing.T, test func(*testing.T, *node)) {
	t.Helper()
	onNodes(t, test)
	if v := newest(); world.runtime == uniRuntime && strings.HasPrefix(v, "2.") {
		t.Run(v+"-sandbox-api", func(t *testing.T) {
			test(t, newNode(t, v, func(o *peer.Options) { o.CRI.SandboxAPI = true }))
		})
	}
}

// newNode starts a containerd for one test.
func newNode(t *testing.T, version string, changes ...func(*peer.Options)) *node {
	t.Helper()
	tool := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(world.cache, "peers", pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s is missing (%v): make peers", pattern, err)
		}
		return found[0]
	}
	n := &node{netns: newNetns(t, "node"), crictl: tool("cri-*/crictl")}
	plugins := filepath.Dir(tool("tools-*/bridge"))
	deploy, err := filepath.Abs("../deploy")
	if err != nil {
		t.Fatal(err)
	}
	n.host, err = newHost(t.Context(), version, fmt.Sprintf("k%d", sites.Add(1)), []string{"nsenter", "--net=" + string(n.netns)}, func(o *peer.Options) {
		o.Namespace = "k8s.io" // of every pod
		o.CRI = &peer.CRI{Plugins: plugins, Network: conformance.PodNetwork(o.Dir), Pause: pause, Deploy: deploy}
		for _, change := range changes {
			change(o)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.end(); err != nil {
			t.Error(err)
		}
	})
	n.cgroup = filepath.Base(world.dir) + filepath.Base(n.Dir)
	t.Cleanup(func() { // as a kubelet removes it
		var made []string
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} { // of version 1 and 2; what is there: a directory above may be read-only
			found, _ := filepath.Glob(pattern + n.cgroup) // the pattern is well formed
			made = append(made, found...)
		}
		for _, dir := range made {
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	// QEMU 7.2 without KVM, with two processors: one may run an instruction that the
	// other's kernel has patched since, and one boot in a hundred panics (int3).
	n.with(t, settings{"pod.vcpus": "1"})
	n.loadPause(t)
	n.load(t, busybox)
	n.watch(t)
	return n
}

// loadPause imports the image of sandboxes.
func (n *node) loadPause(t *testing.T) {
	t.Helper()
	if !exists(archive(pause)) {
		box, err := exec.LookPath("busybox")
		if err != nil {
			t.Fatal(err)
		}
		i, err := image.Pause(pause, box)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.WriteFile(archive(pause)); err != nil {
			t.Fatal(err)
		}
	}
	n.load(t, pause)
}

// command is a call of crictl that is not started.
func (n *node) command(ctx context.Context, args ...string) *exec.Cmd {
	socket := "unix://" + n.Address()
	args = append([]string{"--net=" + string(n.netns), n.crictl, "--config", os.DevNull, "-r", socket, "-i", socket, "-t", callTimeout.String()}, args...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

// cri is a call of crictl to its end, with an input.
func (n *node) cri(t *testing.T, stdin string, args ...string) peer.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	cmd := n.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	code := peer.Code(cmd, cmd.Run())
	return peer.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: code}
}

// do is a call of crictl that must succeed; it returns stdout without its last
// newline.
func (n *node) do(t *testing.T, args ...string) string {
	t.Helper()
	r := n.cri(t, "", args...)
	if r.Code != 0 {
		t.Fatalf("crictl %s: %+v", strings.Join(args, " "), r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// object is a JSON document.
type object = map[string]any

// ownProcesses is a security context in which each container sees its processes
// alone, as a kubelet asks for it (CONTAINER); CRI's own default is the pod.
var ownProcesses = object{"namespace_options": object{"pid": 1}}

// write writes a document where crictl reads it.
func (n *node) write(t *testing.T, name string, o object) string {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.Dir, name+".json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// handler is the name of the runtime under test in containerd's configuration.
func handler() string {
	if world.runtime == uniRuntime {
		return "uni"
	}
	return "runc"
}

// sandbox is a pod that runs.
type sandbox struct {
	*node
	id, config, dir string
	made            int // containers
}

// podConfig is what a kubelet asks for, with changes of the part "linux".
func (n *node) podConfig(t *testing.T, linux object) (config, dir string) {
	t.Helper()
	n.made++
	name := fmt.Sprintf("pod%d", n.made)
	dir = filepath.Join(n.Dir, "pods", name)
	if err := os.MkdirAll(filepath.Join(dir, "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	if linux == nil {
		linux = object{}
	}
	linux["cgroup_parent"] = "/" + n.cgroup
	if linux["security_context"] == nil {
		linux["security_context"] = ownProcesses
	}
	return n.write(t, name, object{
		"metadata": object{"name": name, "namespace": "default", "uid": name + "-uid", "attempt": 0},
		"hostname": name + "-host", "log_directory": filepath.Join(dir, "log"),
		"dns_config": object{"servers": []string{"192.0.2.53"}, "searches": []string{"pods.example"}},
		"linux":      linux,
	}), dir
}

// runPod runs a sandbox, which is removed with the test if it is still there.
func (n *node) runPod(t *testing.T, linux object) *sandbox {
	t.Helper()
	p := &sandbox{node: n}
	p.config, p.dir = n.podConfig(t, linux)
	p.id = n.do(t, "runp", "--runtime", handler(), p.config)
	t.Cleanup(func() { n.cri(t, "", "rmp", "-f", p.id) }) // the test may have done it
	return p
}

// emptyDir is a mount of the pod's volume of a name, as a kubelet makes it.
func (p *sandbox) emptyDir(t *testing.T, name, at string) object {
	t.Helper()
	dir := filepath.Join(p.dir, "volumes/kubernetes.io~empty-dir", name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return object{"container_path": at, "host_path": dir}
}

// create creates a container of busybox; changes are fields of its configuration.
func (p *sandbox) create(t *testing.T, changes object, script string) (id string) {
	t.Helper()
	p.made++
	name := fmt.Sprintf("c%d", p.made)
	config := object{
		"metadata": object{"name": name, "attempt": 0}, "image": object{"image": busybox},
		"command": []string{"sh", "-c", script}, "log_path": name + ".log", "linux": object{"security_context": ownProcesses},
	}
	for k, v := range changes {
		config[k] = v
	}
	return p.do(t, "create", p.id, p.write(t, fmt.Sprintf("pod%d-%s", p.node.made, name), config), p.config)
}

// run creates a container and starts it.
func (p *sandbox) run(t *testing.T, changes object, script string) (id string) {
	t.Helper()
	id = p.create(t, changes, script)
	p.do(t, "start", id)
	return id
}

// status is what CRI says of a container.
type status struct {
	State    string
	ExitCode int
	Reason   string
}

func (n *node) status(t *testing.T, id string) status {
	t.Helper()
	var s struct{ Status status }
	if err := json.Unmarshal([]byte(n.do(t, "inspect", "-o", "json", id)), &s); err != nil {
		t.Fatal(err)
	}
	return s.Status
}

// exited waits for the end of a container.
func (n *node) exited(t *testing.T, id string) (s status) {
	t.Helper()
	eventually(t, "the container has exited", func() bool {
		s = n.status(t, id)
		return s.State == "CONTAINER_EXITED"
	})
	return s
}

// TestCRIPod: the containers of a pod share its network, name and volumes; each
// has files, processes, limits, logs and an end of its own.
func TestCRIPod(t *testing.T) {
	onAllNodes(t, func(t *testing.T, n *node) {
		p := n.runPod(t, nil)
		shared := []object{p.emptyDir(t, "shared", "/shared")}
		server := p.run(t, object{"mounts": shared}, `
			trap 'echo told to end; exit 0' TERM
			echo to out; echo to err >&2; echo page >/shared/index.html
			httpd -p 127.0.0.1:8080 -h /shared; echo mine >/file
			while :; do sleep 0.1; done`)

		t.Run("neighbours", func(t *testing.T) {
			id := p.run(t, object{"mounts": shared}, `
				for i in $(seq 50); do wget -q -O - http://127.0.0.1:8080/ && break; sleep 0.2; done
				hostname; cat /shared/index.html; grep 192.0.2.53 /etc/resolv.conf; ls /file; grep -lx httpd /proc/[0-9]*/comm || echo no httpd
				echo more >/shared/more; exit 3`)
			if s := n.exited(t, id); s.ExitCode != 3 || s.Reason != "Error" {
				t.Errorf("%+v", s)
			}
			got := n.do(t, "logs", id)
			if want := fmt.Sprintf("page\npod%d-host\npage\nnameserver 192.0.2.53\nno httpd", n.made); got != want {
				t.Errorf("log %q, want %q", got, want)
			}
			if got := n.do(t, "exec", "-s", server, "cat", "/shared/more"); strings.TrimSpace(got) != "more" {
				t.Errorf("%q in the volume", got)
			}
			n.do(t, "rm", id)
		})
		t.Run("exec", func(t *testing.T) {
			if r := n.cri(t, "", "exec", "-s", server, "sh", "-c", "echo out; echo err >&2; exit 5"); !strings.Contains(r.Stderr, "exited with 5: err") {
				t.Errorf("synchronous: %+v", r)
			}
			if r := n.cri(t, "through\n", "exec", "-i", server, "sh", "-c", "cat; cat /file; exit 5"); r.Stdout != "through\nmine\n" || r.Code == 0 {
				t.Errorf("streaming: %+v", r)
			}
			if r := n.cri(t, "", "exec", "-s", "--timeout", "1", server, "sleep", "1000"); r.Code == 0 {
				t.Errorf("beyond its time: %+v", r)
			}
		})
		t.Run("attach", func(t *testing.T) {
			id := p.run(t, object{"stdin": true, "stdin_once": true}, "read line; echo got $line; exit 4")
			n.cri(t, "a line\n", "attach", "-i", id)
			if s := n.exited(t, id); s.ExitCode != 4 || n.do(t, "logs", id) != "got a line" {
				t.Errorf("%+v, %q", s, n.do(t, "logs", id))
			}
		})
		t.Run("logs", func(t *testing.T) {
			r := n.cri(t, "", "logs", server)
			if r.Stdout != "to out\n" || r.Stderr != "to err\n" {
				t.Errorf("%+v", r)
			}
		})
		t.Run("processes", func(t *testing.T) { p.processes(t, server) })
		t.Run("stats", func(t *testing.T) { p.stats(t, server) })
		t.Run("limits", func(t *testing.T) { p.limits(t, server) })
		t.Run("pause", func(t *testing.T) { p.pause(t, server) })
		t.Run("port-forward", func(t *testing.T) { p.forward(t, "8080", "page\n") })

		n.do(t, "stop", "-t", "10", server)
		if s := n.status(t, server); s.State != "CONTAINER_EXITED" || s.ExitCode != 0 || !strings.HasSuffix(n.do(t, "logs", server), "told to end") {
			t.Errorf("stopped: %+v", s)
		}
		again := p.run(t, object{"mounts": shared, "metadata": object{"name": "c1", "attempt": 1}}, "cat /shared/more; ls /file")
		if s := n.exited(t, again); s.ExitCode == 0 || n.do(t, "logs", again) != "more" {
			t.Errorf("again: %+v, %q", s, n.do(t, "logs", again))
		}
		last := p.run(t, nil, "sleep 1000")
		n.do(t, "stopp", p.id)
		if s := n.status(t, last); s.State != "CONTAINER_EXITED" || s.ExitCode != 137 {
			t.Errorf("with the pod stopped: %+v", s)
		}
		n.do(t, "rmp", p.id)
	})
}

// processes: containers that share the pod's processes, and one that is in another
// container's, see them; a container with its own does not.
func (p *sandbox) processes(t *testing.T, server string) {
	t.Helper()
	in := func(options object) object {
		return object{"linux": object{"security_context": object{"namespace_options": options}}}
	}
	ofPod := object{"pid": 0}
	sleeper := p.run(t, in(ofPod), "exec sleep 4321")
	beside := p.run(t, in(ofPod), "exec sleep 1000")
	debugger := p.run(t, in(object{"pid": 3, "target_id": server}), "exec sleep 1000")
	for id, want := range map[string][2]bool{beside: {true, false}, debugger: {false, true}, server: {false, true}} {
		got := p.do(t, "exec", "-s", id, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
		if saw := [2]bool{strings.Contains(got, "sleep 4321"), strings.Contains(got, "httpd -p")}; saw != want {
			t.Errorf("sees the pod's and the server's processes: %v, want %v: %s", saw, want, got)
		}
	}
	for _, id := range []string{sleeper, debugger, beside} {
		p.do(t, "rm", "-f", id)
	}
	if s := p.status(t, server); s.State != "CONTAINER_RUNNING" {
		t.Errorf("the server: %+v", s)
	}
}

// stats compares what CRI says of a container with what it does.
func (p *sandbox) stats(t *testing.T, id string) {
	t.Helper()
	p.do(t, "exec", "-s", id, "sh", "-c", "head -c 16777216 /dev/urandom >/dev/shm/16M")
	type value struct{ Value string }
	var s struct {
		Stats []struct {
			CPU    struct{ UsageCoreNanoSeconds value }
			Memory struct{ WorkingSetBytes value }
		}
	}
	eventually(t, "the statistics count 16 MiB", func() bool {
		if err := json.Unmarshal([]byte(p.do(t, "stats", "-o", "json", "--id", id)), &s); err != nil || len(s.Stats) != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		bytes, _ := strconv.Atoi(s.Stats[0].Memory.WorkingSetBytes.Value)
		used, _ := strconv.Atoi(s.Stats[0].CPU.UsageCoreNanoSeconds.Value)
		return bytes > 16<<20 && bytes < 64<<20 && used > 0 && used < int(time.Hour)
	})
	p.do(t, "exec", "-s", id, "rm", "/dev/shm/16M")
}

// pause: a container that is paused stands still, alone.
func (p *sandbox) pause(t *testing.T, other string) {
	t.Helper()
	id := p.run(t, nil, "i=0; while :; do i=$((i+1)); echo $i >/shared-count; done")
	count := func() string { return p.do(t, "exec", "-s", id, "cat", "/shared-count") }
	p.ok(t, "tasks", "pause", id)
	if got := p.ctr(t, "tasks", "ls").Stdout; !strings.Contains(got, "PAUSED") {
		t.Errorf("tasks: %s", got)
	}
	if r := p.cri(t, "", "exec", "-s", other, "true"); r.Code != 0 {
		t.Errorf("the other one meanwhile: %+v", r)
	}
	p.ok(t, "tasks", "resume", id)
	before := count()
	eventually(t, "it counts again", func() bool { return count() != before })
	p.ok(t, "tasks", "pause", id)
	p.do(t, "rm", "-f", id)
}

// processors: a machine runs on those of its containers' sets, as long as each has one.
func (p *sandbox) processors(t *testing.T) {
	t.Helper()
	if world.runtime != uniRuntime {
		return
	}
	qemus := p.find(t, "qemu-system")
	if len(qemus) != 1 {
		t.Fatalf("machines %v, want one", qemus)
	}
	allowed := func() int {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(qemus[0], &set); err != nil {
			t.Fatal(err)
		}
		return set.Count()
	}
	all := allowed()
	pinned := object{"linux": object{"security_context": ownProcesses, "resources": object{"cpuset_cpus": "0"}}}
	one := p.run(t, pinned, "sleep 1000")
	if got := allowed(); got != 1 {
		t.Errorf("with all containers on processor 0 the machine may run on %d", got)
	}
	two := p.run(t, nil, "sleep 1000")
	if got := allowed(); got != all {
		t.Errorf("with one that has no set the machine may run on %d of %d", got, all)
	}
	p.do(t, "rm", "-f", one, two)
}

// limits: one container that exceeds its memory is killed, alone, also when the
// limit came later.
func (p *sandbox) limits(t *testing.T, other string) {
	t.Helper()
	fill := "dd if=/dev/zero of=/dev/null bs=64M count=1"
	limited := object{"linux": object{"security_context": ownProcesses, "resources": object{"memory_limit_in_bytes": 48 << 20}}}
	id := p.run(t, limited, "exec "+fill)
	if s := p.exited(t, id); s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("beyond the limit: %+v", s)
	}
	id = p.run(t, nil, "sleep 1000")
	if r := p.cri(t, "", "exec", "-s", id, "sh", "-c", fill+" 2>/dev/null"); r.Code != 0 {
		t.Errorf("without a limit: %+v", r)
	}
	p.do(t, "update", "--memory", strconv.Itoa(48<<20), id)
	if r := p.cri(t, "", "exec", "-s", id, "sh", "-c", fill+" 2>/dev/null"); r.Code == 0 {
		t.Errorf("beyond a limit that came later: %+v", r)
	}
	p.do(t, "rm", "-f", id)
	if s := p.status(t, other); s.State != "CONTAINER_RUNNING" {
		t.Errorf("the other container: %+v", s)
	}
}

// forward reads a page of a server that listens on 127.0.0.1 in the pod.
func (p *sandbox) forward(t *testing.T, port, page string) {
	t.Helper()
	cmd := p.command(t.Context(), "port-forward", p.id, "9090:"+port)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer stop(cmd)
	for range 2 {
		var got []byte
		eventually(t, "the forwarded port answers", func() bool {
			got, _ = exec.CommandContext(t.Context(), "nsenter", "--net="+string(p.netns), "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9090/").Output()
			return len(got) > 0
		})
		if string(got) != page {
			t.Errorf("page %q, want %q; it said %s", got, page, said.String())
		}
	}
}

// TestCRIVolumes: what a kubelet mounts is what it shall be in each container, and
// changes with it.
func TestCRIVolumes(t *testing.T) {
	onAllNodes(t, func(t *testing.T, n *node) {
		p := n.runPod(t, nil)
		kubelet := filepath.Join(p.dir, "pods/u")
		config, memory, part := filepath.Join(kubelet, "volumes/kubernetes.io~configmap/c"), filepath.Join(kubelet, "volumes/kubernetes.io~empty-dir/m"), filepath.Join(kubelet, "volume-subpaths/c/ctr/0")
		hosts, path := filepath.Join(kubelet, "etc-hosts"), filepath.Join(p.dir, "host")
		write := func(path, data string) {
			t.Helper()
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		project := func(version string) { // as a kubelet does
			t.Helper()
			write(filepath.Join(config, ".."+version, "key"), version+"\n")
			if err := errors.Join(os.Symlink(".."+version, config+"/..data_tmp"), os.Rename(config+"/..data_tmp", config+"/..data")); err != nil {
				t.Fatal(err)
			}
		}
		project("one")
		write(hosts, "192.0.2.1 one\n")
		write(part, "part\n")
		write(filepath.Join(path, "file"), "host\n")
		if err := errors.Join(os.Symlink("..data/key", config+"/key"), os.MkdirAll(memory, 0o777), unix.Mount("tmpfs", memory, "tmpfs", 0, "size=1m,mode=2777,gid=7")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(memory, unix.MNT_DETACH) })
		mounts := []object{
			{"container_path": "/etc/hosts", "host_path": hosts}, {"container_path": "/config", "host_path": config, "readonly": true},
			{"container_path": "/part", "host_path": part, "readonly": true}, {"container_path": "/memory", "host_path": memory},
			{"container_path": "/host", "host_path": path}, {"container_path": "/ro", "host_path": path, "readonly": true},
		}
		one, two := p.run(t, object{"mounts": mounts}, "sleep 1000"), p.run(t, object{"mounts": mounts}, "sleep 1000")
		sh := func(id, script string) string {
			t.Helper()
			// crictl adds newlines.
			return strings.TrimSpace(n.cri(t, "", "exec", "-s", id, "sh", "-c", script+" 2>&1; true").Stdout) + "\n"
		}
		for _, c := range []struct{ id, script, want string }{
			{one, "cat /config/key /etc/hosts /part /host/file; stat -c '%g %a' /memory", "one\n192.0.2.1 one\npart\nhost\n7 2777\n"},
			{one, "touch /config/x /ro/x || echo refused; echo x >/host/new; echo y >/memory/file; echo z >/dev/shm/file", "refused"},
			{one, "dd if=/dev/zero of=/memory/big bs=1M count=2 || rm /memory/big", "No space left on device"},
			{two, "cat /host/new /memory/file /dev/shm/file", "x\ny\nz\n"},
		} {
			if got := sh(c.id, c.script); !strings.Contains(got, c.want) {
				t.Errorf("%s: %q, want %q", c.script, got, c.want)
			}
		}
		write(hosts, "192.0.2.2 two\n")
		project("two")
		for _, id := range []string{one, two} {
			eventually(t, "the changes are seen", func() bool { return sh(id, "cat /config/key /etc/hosts") == "two\n192.0.2.2 two\n" })
		}
		n.do(t, "rm", "-f", one)
		again := p.run(t, object{"mounts": mounts, "metadata": object{"name": "c1", "attempt": 1}}, "sleep 1000")
		if got, want := sh(again, "cat /config/key /part /memory/file /host/new"), "two\npart\ny\nx\n"; got != want {
			t.Errorf("started again: %q, want %q", got, want)
		}
		if got := sh(two, "cat /config/key"); got != "two\n" {
			t.Errorf("the other one: %q", got)
		}
		n.do(t, "rmp", "-f", p.id)
	})
}

// TestCRIMachineDies: with its machine, or its shim, every container of a pod ends,
// then the pod; it is removed like any other.
func TestCRIMachineDies(t *testing.T) {
	uniOnly(t)
	onAllNodes(t, func(t *testing.T, n *node) {
		for what, find := range map[string]func() []int{
			"machine": func() []int { return n.find(t, "qemu-system") },
			"shim":    func() []int { return n.shims(t) },
		} {
			p := n.runPod(t, nil)
			ids := []string{p.run(t, nil, "sleep 1000"), p.run(t, nil, "sleep 1000")}
			pids := find()
			if len(pids) != 1 {
				t.Fatalf("%s: processes %v, want one", what, pids)
			}
			if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if s := n.exited(t, id); s.ExitCode == 0 {
					t.Errorf("%s killed: %+v", what, s)
				}
			}
			eventually(t, "the pod is not ready", func() bool {
				return strings.Contains(n.do(t, "inspectp", "-o", "json", p.id), "SANDBOX_NOTREADY")
			})
			n.do(t, "stopp", p.id)
			n.do(t, "rmp", p.id)
		}
	})
}

// TestCRIRefuses: what a machine cannot have is refused when the pod is made, and
// the answer says why.
func TestCRIRefuses(t *testing.T) {
	uniOnly(t)
	n := newNode(t, newest())
	n.refuses(t)
	// What failed may be there as a pod that is not ready: a kubelet removes it.
	n.do(t, "rmp", "-f", "-a")
}

// refuses tries pods that cannot be.
func (n *node) refuses(t *testing.T) {
	t.Helper()
	for what, test := range map[string]struct {
		options object
		say     string
	}{
		"host's network":   {object{"network": 2}, "the host's network"},
		"host's processes": {object{"pid": 2}, "the host's pid"},
		"host's IPC":       {object{"ipc": 2}, "the host's ipc"},
	} {
		config, _ := n.podConfig(t, object{"security_context": object{"namespace_options": test.options}})
		if r := n.cri(t, "", "runp", "--runtime", handler(), config); r.Code == 0 || !strings.Contains(r.Stderr, test.say) {
			t.Errorf("%s: %+v", what, r)
		}
	}
	config, _ := n.podConfig(t, object{"resources": object{"memory_limit_in_bytes": int64(1) << 43}})
	if r := n.cri(t, "", "runp", "--runtime", handler(), config); r.Code == 0 || !strings.Contains(r.Stderr, "8388608 MiB of memory together, and the host has") {
		t.Errorf("larger than the host: %+v", r)
	}
}
