package integration

import (
	"encoding/json"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/integration/peer"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// newAPINode starts a containerd whose pods are made by the shim.
func newAPINode(t *testing.T) *node {
	t.Helper()
	uniOnly(t)
	return newNode(t, "2.4.2", func(o *peer.Options) { o.CRI.SandboxAPI = true })
}

// TestCRISandboxAPI: what containerd's own controller makes for a pod, the shim makes
// with the sandbox API; the pod outlasts containerd.
func TestCRISandboxAPI(t *testing.T) {
	n := newAPINode(t)
	p := n.runPod(t, object{"sysctls": object{"net.ipv4.ping_group_range": "5 6"}})
	p.processors(t)
	script := "cat /etc/hostname /etc/resolv.conf; grep -c localhost /etc/hosts; sysctl -n net.ipv4.ping_group_range net.ipv4.ip_unprivileged_port_start; stat -f -c %T /dev/shm; df -k /dev/shm | tail -n 1 | awk '{print $2}'; " +
		"ls /dev/shm; echo here >/dev/shm/file; echo mine >>/etc/hosts; exec sleep 1000"
	one := p.run(t, nil, script)
	eventually(t, "the first has written", func() bool { return strings.Contains(n.do(t, "exec", "-s", one, "ls", "/dev/shm"), "file") })
	want := "pod1-host\nsearch pods.example\nnameserver 192.0.2.53\n1\n5\t6\n0\ntmpfs\n65536"
	if got := n.do(t, "logs", one); got != want {
		t.Errorf("the first sees %q, want %q", got, want)
	}
	readOnly := object{"linux": object{"security_context": object{"readonly_rootfs": true, "namespace_options": object{"pid": 1}}}}
	two := p.run(t, readOnly, "cat /dev/shm/file; echo x >/etc/hosts; exec sleep 1000")
	eventually(t, "the second has looked", func() bool { return strings.Contains(n.cri(t, "", "logs", two).Stderr, "Read-only") })
	if got := n.cri(t, "", "logs", two).Stdout; got != "here\n" {
		t.Errorf("the second sees %q of the first's memory", got)
	}

	var pod struct {
		Status struct{ State string }
		Info   struct {
			Pid           int
			ProcessStatus string
			RuntimeSpec   struct{ Hostname string }
		}
	}
	inspect := func() string {
		t.Helper()
		if err := json.Unmarshal([]byte(n.do(t, "inspectp", "-o", "json", p.id)), &pod); err != nil {
			t.Fatal(err)
		}
		return pod.Status.State
	}
	if inspect() != "SANDBOX_READY" || pod.Info.Pid == 0 || pod.Info.ProcessStatus != "running" || pod.Info.RuntimeSpec.Hostname != "pod1-host" {
		t.Errorf("pod %+v", pod)
	}
	p.podStats(t, 2)
	p.resize(t)

	if err := n.Restart(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service answers again", func() bool { return n.cri(t, "", "version").Code == 0 })
	if inspect() != "SANDBOX_READY" || n.status(t, one).State != "CONTAINER_RUNNING" {
		t.Errorf("after a restart of containerd: pod %+v, container %+v", pod, n.status(t, one))
	}
	three := p.run(t, nil, "cat /dev/shm/file; exit 3")
	if s := n.exited(t, three); s.ExitCode != 3 || n.do(t, "logs", three) != "here" {
		t.Errorf("a container that came after it: %+v, %q", s, n.do(t, "logs", three))
	}
	n.do(t, "stopp", p.id)
	if inspect() != "SANDBOX_NOTREADY" {
		t.Errorf("stopped: %+v", pod)
	}
	n.do(t, "rmp", p.id)
	if left := n.shims(t); len(left) > 0 {
		t.Errorf("shims %v are left", left)
	}
}

// resize has the pod resized within its machine, and beyond.
func (p *sandbox) resize(t *testing.T) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+p.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	update := func(limits *criapi.LinuxContainerResources) error { // crictl has no command for it
		_, err := criapi.NewRuntimeServiceClient(conn).UpdatePodSandboxResources(t.Context(),
			&criapi.UpdatePodSandboxResourcesRequest{PodSandboxId: p.id, Resources: limits})
		return err
	}
	if err := update(&criapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuQuota: 50000, CpuPeriod: 100000}); err != nil {
		t.Errorf("within the machine: %v", err)
	}
	if err := update(&criapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 30}); err == nil || !strings.Contains(err.Error(), "limit of 65536 MiB") {
		t.Errorf("beyond it: %v", err)
	}
}

// amount reads a number that CRI tells.
func amount(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Errorf("an amount that is none: %v", err)
	}
	return n
}

// podStats compares what CRI says of a pod and of the containers in it with what they
// do.
func (p *sandbox) podStats(t *testing.T, processes int) {
	t.Helper()
	type value struct{ Value string }
	var s struct {
		Stats []struct {
			Linux struct {
				CPU     struct{ UsageCoreNanoSeconds value }
				Memory  struct{ WorkingSetBytes value }
				Network struct {
					DefaultInterface struct {
						Name    string
						RxBytes value
					}
				}
				Process    struct{ ProcessCount value }
				Containers []struct{ Attributes struct{ ID string } }
			}
		}
	}
	if err := json.Unmarshal([]byte(p.do(t, "statsp", "-o", "json", "--id", p.id)), &s); err != nil || len(s.Stats) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	got := s.Stats[0].Linux
	if n := amount(t, got.Memory.WorkingSetBytes.Value); n < 16<<20 || n > 1<<30 {
		t.Errorf("a machine with %d bytes of working set", n)
	}
	if amount(t, got.CPU.UsageCoreNanoSeconds.Value) == 0 || amount(t, got.Network.DefaultInterface.RxBytes.Value) == 0 || got.Network.DefaultInterface.Name != "eth0" {
		t.Errorf("CPU, network: %+v", got)
	}
	if n := amount(t, got.Process.ProcessCount.Value); n != processes || len(got.Containers) < processes {
		t.Errorf("%d processes in %d containers, want %d", n, len(got.Containers), processes)
	}
}

// TestCRISandboxAPIRefuses: what a machine cannot have is refused there too, and
// nothing of the pod is left.
func TestCRISandboxAPIRefuses(t *testing.T) {
	n := newAPINode(t)
	n.refuses(t)
	n.do(t, "rmp", "-f", "-a")
	if left := n.shims(t); len(left) > 0 {
		t.Errorf("shims %v are left", left)
	}
}
