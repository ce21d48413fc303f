package boottest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// member is a container of a pod, with its first process.
type member struct {
	m *machine
	unikernel.ContainerSession
	p    unikernel.Process
	told atomic.Int32 // of want of memory
}

// add makes a container with those disks and starts its first process.
func (m *machine) add(a unikernel.App, root, upper string) *member {
	m.t.Helper()
	s, err := m.session.(unikernel.PodSession).Container(m.context(), a, []unikernel.DiskRequest{
		{Kind: unikernel.DiskRoot, Serial: root}, {Kind: unikernel.DiskWritable, Serial: upper}})
	if err != nil {
		m.t.Fatalf("container on %s: %v\n%s", root, err, m.console)
	}
	c := &member{m: m, ContainerSession: s}
	s.OnOOM(func() { c.told.Add(1) })
	if c.p, err = s.Run(m.context(), unikernel.Stdio{}); err != nil {
		m.t.Fatalf("run on %s: %v\n%s", root, err, m.console)
	}
	return c
}

func (c *member) sh(script string) result {
	c.m.t.Helper()
	var out, errOut lockedBuffer
	p, err := c.Exec(c.m.context(), "x", process("sh", "-c", script), unikernel.Stdio{Stdout: &out, Stderr: &errOut})
	if err != nil {
		c.m.t.Fatalf("exec %q: %v", script, err)
	}
	return result{c.m.await(p), out.String(), errOut.String()}
}

// lives tells whether a container's first process and a further one run.
func (c *member) lives() bool {
	select {
	case <-c.p.Exited():
		return false
	default:
		return c.sh("true").status == 0
	}
}

// isComplete sees that a layer's file system on the host was unmounted, with a file.
func isComplete(t *testing.T, disk, file, want string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", disk).CombinedOutput(); err != nil || strings.Contains(string(out), "recovering journal") {
		t.Errorf("the layer was not unmounted: %v\n%s", err, out)
	}
	out, err := exec.Command("debugfs", "-R", "cat /upper"+file, disk).Output()
	if err != nil || string(out) != want {
		t.Errorf("%s in the layer: %q, %v; want %q", file, out, err, want)
	}
}

// forever is what a container of a pod runs; it writes its name down.
const forever = "trap 'exit 3' USR1; echo $NAME >/mark; while :; do sleep 0.05; done"

// named is a container of a pod.
func named(name string) unikernel.App {
	a := app("sh", "-c", forever)
	a.Spec.Hostname = ""
	a.Spec.Process.Env = append(a.Spec.Process.Env, "NAME="+name)
	return a
}

// bootPod boots a machine with a controller for disks, and returns it with QEMU's
// monitor and an image. It has the disks of one container, and two processors.
func bootPod(t *testing.T) (*machine, *monitor, string) {
	t.Helper()
	needQEMU(t)
	root := image(t)
	socket := filepath.Join(t.TempDir(), "qmp.sock")
	m := bootWith(t, "microvm", unikernel.Resources{MemoryMiB: 256, VCPUs: 2}, root, named("pod"),
		"-device", "virtio-scsi-device,id=scsi0,num_queues=1", "-qmp", "unix:"+socket+",server=on,wait=off")
	return m, dialMonitor(t, socket), root
}

// configure sets up what the containers of the pod share.
func (m *machine) configure() {
	m.t.Helper()
	a := app()
	a.Spec.Hostname = "the-pod"
	if err := m.session.(unikernel.PodSession).Configure(m.context(), a, ""); err != nil {
		m.t.Fatal(err)
	}
}

// TestPod: three containers in one machine, whose disks are of the machine, and of a
// controller to which they come and from which they go.
func TestPod(t *testing.T) {
	m, q, root := bootPod(t)
	pod := m.session.(unikernel.PodSession)
	if _, err := pod.Container(m.context(), named("early"), nil); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a container without a disk: %v", err)
	}
	m.configure()
	upperB, upperC := writableDisk(t), writableDisk(t)
	q.attach("b-root", root, 2, true)
	q.attach("b-upper", upperB, 3, false)
	// The third one's come while the guest looks for them.
	late := make(chan struct{})
	go func() {
		defer close(late)
		time.Sleep(time.Second)
		q.attach("c-root", root, 4, true)
		q.attach("c-upper", upperC, 5, false)
	}()
	limited := named("c")
	limited.Spec.Linux.Resources = memoryLimit(32 << 20)
	never := -1000 // the kernel takes a second process when the first is slow to go
	limited.Spec.Process.OOMScoreAdj = &never
	c := m.add(limited, "c-root", "c-upper")
	<-late
	one, two := m.add(named("a"), unikernel.SerialRoot, unikernel.SerialWritable), m.add(named("b"), "b-root", "b-upper")

	t.Run("each has its own", func(t *testing.T) {
		for name, s := range map[string]*member{"a": one, "b": two, "c": c} {
			got := s.sh("while ! [ -s /mark ]; do sleep 0.01; done; cat /mark; hostname; tr '\\0' ' ' </proc/1/cmdline | head -c 12; echo; grep ^0: /proc/self/cgroup; ls -d /proc/[0-9]* | wc -l; touch /only-" + name + "; ls -d /only-*")
			lines := strings.Split(got.out, "\n")
			if len(lines) < 6 || lines[0] != name || lines[1] != "the-pod" || !strings.HasPrefix(lines[2], "sh -c trap") || lines[3] != "0::/" || lines[5] != "/only-"+name {
				t.Errorf("in %s: %q %s", name, lines, got.errOut)
			}
			if len(lines) > 4 && strings.TrimSpace(lines[4]) > "6" { // its shell and sleep, ours, ls, wc
				t.Errorf("in %s there are %s processes", name, lines[4])
			}
		}
	})
	t.Run("statistics", func(t *testing.T) {
		if r := two.sh("dd if=/dev/zero of=/big bs=1M count=30 2>/dev/null && cat /big >/dev/null"); r.status != 0 {
			t.Fatalf("%+v", r)
		}
		var file [2]uint64
		for i, s := range []*member{one, two} {
			st, err := s.Stats(m.context())
			if err != nil || st.Pids == 0 || st.Pids > 3 || st.CPU.Usage == 0 {
				t.Fatalf("%+v, %v", st, err)
			}
			file[i] = st.Memory.Stat["file"]
		}
		if file[0] > 8<<20 || file[1] < 30<<20 {
			t.Errorf("file pages of a container that wrote nothing %d, of one that wrote 30 MiB %d", file[0], file[1])
		}
		if st, err := c.Stats(m.context()); err != nil || st.Memory.Limit != 32<<20 {
			t.Errorf("the limit of the third: %d, %v", st.Memory.Limit, err)
		}
	})
	t.Run("want of memory", func(t *testing.T) {
		if r := c.sh("dd if=/dev/zero of=/dev/null bs=60000000 count=1"); r.status != 137 {
			t.Errorf("more memory than the limit: %+v", r)
		}
		if one.told.Load() != 0 || two.told.Load() != 0 || c.told.Load() != 1 {
			t.Errorf("told %d, %d, %d times, want 0, 0, 1", one.told.Load(), two.told.Load(), c.told.Load())
		}
		if !one.lives() || !two.lives() || !c.lives() {
			t.Error("it ended another's process")
		}
	})
	t.Run("signal to all", func(t *testing.T) {
		sleepers := map[*member]unikernel.Process{}
		for _, s := range []*member{one, two} {
			p, err := s.Exec(m.context(), "x", process("sleep", "1000"), unikernel.Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			sleepers[s] = p
		}
		if err := one.p.Signal(m.context(), syscall.SIGTERM, true); err != nil { // which PID 1 ignores
			t.Fatal(err)
		}
		if got := m.await(sleepers[one]); got != 143 {
			t.Errorf("status %d, want 143", got)
		}
		select {
		case <-sleepers[two].Exited():
			t.Error("a process of another container got it, too")
		default:
		}
		if !one.lives() || !two.lives() {
			t.Error("a first process died of it")
		}
	})
	t.Run("exits", func(t *testing.T) {
		if err := two.p.Signal(m.context(), syscall.SIGUSR1, false); err != nil {
			t.Fatal(err)
		}
		if got := m.await(two.p); got != 3 {
			t.Errorf("status %d, want 3", got)
		}
		if _, err := two.Exec(m.context(), "x", process("true"), unikernel.Stdio{}); err == nil || err.Error() != "cannot exec in a stopped container" {
			t.Errorf("exec in the one that is over: %v", err)
		}
		if !one.lives() || !c.lives() {
			t.Error("the others went with it")
		}
	})
	t.Run("removal", func(t *testing.T) {
		for _, s := range []*member{two, c} { // one is over, one runs
			if err := s.Remove(m.context()); err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(m.context()); !errors.Is(err, unikernel.ErrNotFound) {
				t.Errorf("removed twice: %v", err)
			}
		}
		if got := m.await(c.p); got != 137 {
			t.Errorf("status of the one that ran %d, want 137", got)
		}
		isComplete(t, upperB, "/mark", "b\n")
		isComplete(t, upperC, "/mark", "c\n")
		for _, serial := range []string{"b-root", "b-upper", "c-root", "c-upper"} {
			q.detach(serial)
		}
		if !one.lives() {
			t.Error("the other went with them")
		}
	})
	t.Run("again", func(t *testing.T) {
		q.attach("d-root", root, 2, true)
		q.attach("d-upper", upperB, 3, false)
		d := m.add(named("d"), "d-root", "d-upper")
		if r := d.sh("touch /only-d; ls /only-b /big"); r.status != 0 {
			t.Errorf("what the layer held: %+v", r)
		}
		if _, err := pod.Container(m.context(), named("e"), []unikernel.DiskRequest{{Kind: unikernel.DiskRoot, Serial: "d-upper"}}); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("a container on another's layer: %v", err)
		}
		// Nothing stays of one that fails half way: its root can be another's.
		empty := filepath.Join(t.TempDir(), "empty")
		if err := os.WriteFile(empty, make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		q.attach("e-root", root, 4, true)
		q.attach("e-upper", empty, 5, false)
		onlyRoot := []unikernel.DiskRequest{{Kind: unikernel.DiskRoot, Serial: "e-root"}}
		if _, err := pod.Container(m.context(), named("e"), append(onlyRoot, unikernel.DiskRequest{Kind: unikernel.DiskWritable, Serial: "e-upper"})); err == nil || !strings.Contains(err.Error(), `mount disk "e-upper" as ext4`) {
			t.Errorf("a layer that is none: %v", err)
		}
		e, err := pod.Container(m.context(), named("e"), onlyRoot)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Remove(m.context()); err != nil {
			t.Errorf("removal of one that never ran: %v", err)
		}
		if !d.lives() || !one.lives() {
			t.Error("a container that failed took others with it")
		}
	})
	m.finish()
	isComplete(t, upperB, "/only-d", "")
}

// TestPodMissedDisks: a container's disks are found although the guest was told of none of
// them, and though it takes what was at their units for disks that are still there.
func TestPodMissedDisks(t *testing.T) {
	m, q, root := bootPod(t)
	m.configure()
	q.attach("old-root", root, 20, true)
	q.attach("old-upper", writableDisk(t), 21, false)
	q.attach("unused", root, 22, true)
	other := m.add(named("other"), unikernel.SerialRoot, unikernel.SerialWritable)
	if err := m.add(named("old"), "old-root", "old-upper").Remove(m.context()); err != nil {
		t.Fatal(err)
	}
	q.do("stop", nil)
	for i := range 10 { // the controller holds 8 events for a guest that does not look
		q.attach(fmt.Sprint("noise-", i), root, 30+i, true)
	}
	for _, serial := range []string{"old-root", "old-upper", "unused"} {
		q.detach(serial)
	}
	q.attach("new-root", root, 22, true)
	q.attach("new-upper", writableDisk(t), 20, false)
	q.do("cont", nil)
	s := m.add(named("new"), "new-root", "new-upper")
	for deadline := time.Now().Add(bootTimeout); s.sh("cat /mark").out != "new\n"; {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s.sh("ls -l /mark; cat /mark"))
		}
	}
	for what, c := range map[string]*member{"a disk": other, "a LUN": s} {
		if err := c.Space(m.context(), 8<<20, 0); err != nil {
			t.Errorf("the space on %s cannot be limited: %v", what, err)
		}
		if r := c.sh("dd if=/dev/zero of=/big bs=1M count=32; rm /big"); !strings.Contains(r.errOut, "No space left") {
			t.Errorf("the space on %s is not limited: %+v", what, r)
		}
	}
	if !other.lives() {
		t.Error("the other container is gone")
	}
	m.finish()
}

func memoryLimit(bytes int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &bytes}}
}

// TestSharedPIDs: two containers that see each other's processes, and one that sees
// those of a container that has its own.
func TestSharedPIDs(t *testing.T) {
	needQEMU(t)
	root := image(t)
	socket := filepath.Join(t.TempDir(), "qmp.sock")
	m := bootWith(t, "microvm", unikernel.Resources{MemoryMiB: 128, VCPUs: 1}, root, app("true"),
		"-device", "virtio-scsi-device,id=scsi0,num_queues=1", "-qmp", "unix:"+socket+",server=on,wait=off")
	q := dialMonitor(t, socket)
	if err := m.session.(unikernel.PodSession).Configure(m.context(), app("true"), ""); err != nil {
		t.Fatal(err)
	}
	var all []*member
	for i, name := range []string{"p", "q", "own", "beside"} {
		a := app("sh", "-c", "trap 'exit 3' USR1; (while :; do sleep 0.2; done) & while :; do sleep 0.2; done", "of-"+name)
		a.PIDs.Pod = i < 2
		if name == "beside" {
			a.PIDs.Of = all[2].ContainerSession
		}
		serial := "pids-" + name
		q.attach(serial, root, 10+i, true)
		all = append(all, m.add(a, serial, ""))
	}
	pod, other, own, beside := all[0], all[1], all[2], all[3]
	for c, want := range map[*member]string{pod: "2 2 0 0", other: "2 2 0 0", own: "0 0 2 2", beside: "0 0 2 2"} {
		r := c.sh("for n in p q own beside; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c \"^of-$n$\"; done | tr '\\n' ' '")
		if strings.TrimSpace(r.out) != want {
			t.Errorf("%q shells of each are seen, want %q: %+v", r.out, want, r)
		}
	}
	if r := pod.sh("tr '\\0' ' ' </proc/1/cmdline; kill -TERM 1; kill -KILL 1; (sleep 0.1 &); sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status"); strings.TrimSpace(r.out) != "/pause" {
		t.Errorf("PID 1, and what it does not reap: %+v", r)
	}
	if err := pod.p.Signal(m.context(), syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if got := m.await(pod.p); got != 137 || !other.lives() {
		t.Errorf("status %d; the other lives: %v", got, other.lives())
	}
	if err := other.p.Signal(m.context(), syscall.SIGUSR1, false); err != nil {
		t.Fatal(err)
	}
	if got := m.await(other.p); got != 3 {
		t.Errorf("status %d, want 3", got)
	}
	if err := beside.p.Signal(m.context(), syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if got := m.await(beside.p); got != 137 || !own.lives() {
		t.Errorf("the one beside: status %d; the first lives: %v", got, own.lives())
	}
	for i, c := range all {
		if err := c.Remove(m.context()); err != nil {
			t.Error(err)
		}
		q.detach([]string{"pids-p", "pids-q", "pids-own", "pids-beside"}[i])
	}
	m.finish()
}
