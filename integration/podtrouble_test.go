package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// podTroubles are what befalls a pod without anything of it dying first. Each is put
// to a pod of its own, of which nothing may be left.
var podTroubles = []struct {
	name string
	test func(*testing.T, *node, *podEvents)
}{
	{"three containers end at once", threeEndAtOnce},
	{"disk full", podDiskFull},
	{"created while the pod ends", createdWhileThePodEnds},
	{"volume goes away", volumeGoesAway},
	{"network goes before the pod", networkGoesBefore},
	{"limits that are too small", limitsTooSmall},
	{"unknown guest", unknownGuest},
	{"out-of-memory score", outOfMemoryScore},
}

// TestPodTroubles: the pod goes on where it can, the answer says what is wrong, and
// nothing is left.
func TestPodTroubles(t *testing.T) {
	uniOnly(t)
	onNodes(t, func(t *testing.T, n *node) {
		events := n.events(t)
		for _, trouble := range podTroubles {
			t.Run(strings.ReplaceAll(trouble.name, " ", "-"), func(t *testing.T) {
				c := n.checker()
				t.Cleanup(func() {
					n.removeAll(t)
					nothingLeft(t, c)
				})
				trouble.test(t, n, events)
			})
		}
	})
}

// disks are the files that a pod's machine has open, of which a few are its own.
func (n *node) disks(t *testing.T) int {
	t.Helper()
	pids := n.find(t, "qemu-system")
	if len(pids) != 1 {
		t.Fatalf("machines %v, want one", pids)
	}
	count := 0
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pids[0])) // the pattern is well formed
	for _, f := range files {
		to, _ := os.Readlink(f) // it may have been closed
		if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() && !strings.Contains(to, "/memfd:") {
			count++
		}
	}
	return count
}

// ready fails the test unless a pod is.
func (p *sandbox) ready(t *testing.T) {
	t.Helper()
	if got := p.do(t, "inspectp", "-o", "json", p.id); !strings.Contains(got, "SANDBOX_READY") {
		t.Errorf("the pod is not ready: %s", got)
	}
}

func threeEndAtOnce(t *testing.T, n *node, events *podEvents) {
	p := n.runPod(t, nil)
	before := n.disks(t)
	shared := []object{p.emptyDir(t, "shared", "/shared")}
	var ids []string
	for i := range 3 {
		ids = append(ids, p.run(t, object{"mounts": shared}, fmt.Sprintf("until [ -e /shared/go ]; do sleep 0.05; done; exit %d", i+3)))
	}
	if err := os.WriteFile(filepath.Join(p.dir, "volumes/kubernetes.io~empty-dir/shared/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if s := n.exited(t, id); s.ExitCode != i+3 {
			t.Errorf("container %d: %+v", i, s)
		}
	}
	p.ready(t)
	for _, id := range ids {
		n.do(t, "rm", id)
	}
	if after := n.disks(t); after != before {
		t.Errorf("the machine has %d files open, before its containers %d", after, before)
	}
	n.do(t, "stopp", p.id)
	n.do(t, "rmp", p.id)
	events.check(t, &podLife{sandbox: p, ids: ids}, false)
}

func podDiskFull(t *testing.T, n *node, _ *podEvents) {
	dir := smallDisk(t, "128m") // of which a layer's journal and tables may take a part
	n.with(t, settings{"pod.vcpus": "1", "storage.data_dir": fmt.Sprintf("%q", dir), "storage.min_free": `"0B"`})
	p := n.runPod(t, nil)
	before := n.disks(t)
	fill := filepath.Join(dir, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 64<<10); err == nil; { // until nothing more fits
		_, err = f.Write(block)
	}
	f.Close()
	id := p.create(t, nil, "sleep 1000")
	if r := n.cri(t, "", "start", id); r.Code == 0 || !strings.Contains(r.Stderr, "no space left on device") {
		t.Errorf("%+v", r)
	}
	n.do(t, "rm", "-f", id)
	if after := n.disks(t); after != before {
		t.Errorf("the machine has %d files open, before %d", after, before)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	p.ready(t)
	if s := n.exited(t, p.run(t, nil, "exit 3")); s.ExitCode != 3 {
		t.Errorf("with room again: %+v", s)
	}
	n.do(t, "rmp", "-f", p.id)
}

func createdWhileThePodEnds(t *testing.T, n *node, events *podEvents) {
	for _, moment := range []string{"StopPodSandbox for", "topic=/tasks/exit", "stage=release"} {
		l := &podLife{sandbox: n.runPod(t, nil)}
		l.ids = []string{l.run(t, nil, "sleep 1000"), l.create(t, nil, "sleep 1000")}
		l.begin(t, "stopp", l.id)
		l.await(t, moment)
		r := n.cri(t, "", "start", l.ids[1]) // whether it succeeds depends on which is sooner
		<-l.over
		if s := n.status(t, l.ids[1]); s.State == "CONTAINER_RUNNING" {
			t.Errorf("%s: a container runs in a pod that has ended: %+v; its start: %+v", moment, s, r)
		}
		n.removeAll(t)
		events.check(t, l, false)
	}
}

func volumeGoesAway(t *testing.T, n *node, _ *podEvents) {
	p := n.runPod(t, nil)
	removed, mounted := filepath.Join(p.dir, "removed"), filepath.Join(p.dir, "mounted")
	for _, dir := range []string{removed, mounted} {
		if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("volume", mounted, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) }) // the test has done it
	mounts := []object{{"container_path": "/removed", "host_path": removed}, {"container_path": "/mounted", "host_path": mounted}}
	id := p.run(t, object{"mounts": mounts}, "while :; do ls /removed /mounted >/dev/null 2>&1; touch /mounted/x; sleep 0.1; done")
	// As a kubelet or an operator takes them away.
	if err := unix.Unmount(mounted, 0); err != nil {
		t.Errorf("a volume that a pod has cannot be unmounted by the host: %v", err)
	}
	for _, dir := range []string{mounted, removed} {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("a volume that a pod has cannot be removed: %v", err)
		}
	}
	if r := n.cri(t, "", "exec", "-s", id, "echo", "goes on"); !strings.Contains(r.Stdout, "goes on") {
		t.Errorf("%+v", r)
	}
	// One that asks for a source that is no more gets an empty directory, made by
	// containerd, as with runc.
	if s := n.exited(t, p.run(t, object{"mounts": mounts[:1]}, "touch /removed/again")); s.ExitCode != 0 || !exists(filepath.Join(removed, "again")) {
		t.Errorf("a directory that is made anew: %+v", s)
	}
	n.do(t, "stopp", p.id)
	n.do(t, "rmp", p.id)
}

func networkGoesBefore(t *testing.T, n *node, _ *podEvents) {
	p := n.runPod(t, nil)
	id := p.run(t, nil, "sleep 1000")
	pids := n.standIns(t, p.id)
	if len(pids) != 1 {
		t.Fatalf("stand-ins %v", pids)
	}
	netns(fmt.Sprintf("/proc/%d/ns/net", pids[0])).sh(t, "ip link del eth0") // as the plugin's DEL
	if r := n.cri(t, "", "exec", "-s", id, "echo", "goes on"); !strings.Contains(r.Stdout, "goes on") {
		t.Errorf("%+v", r)
	}
	n.do(t, "stop", "-t", "1", id)
	n.do(t, "stopp", p.id)
	n.do(t, "rmp", p.id)
}

func limitsTooSmall(t *testing.T, n *node, _ *podEvents) {
	limited := func(bytes int) object {
		return object{"linux": object{"security_context": ownProcesses, "resources": object{"memory_limit_in_bytes": bytes}}}
	}
	p := n.runPod(t, object{"resources": object{"memory_limit_in_bytes": 1 << 20}})
	id := p.create(t, limited(16<<10), "sleep 1000")
	if r := n.cri(t, "", "start", id); r.Code == 0 || !strings.Contains(r.Stderr, "limit of memory") {
		t.Errorf("16 KiB: %+v, %+v", r, n.status(t, id))
	}
	p.ready(t)
	if s := n.exited(t, p.run(t, nil, "exit 3")); s.ExitCode != 3 {
		t.Errorf("the next one: %+v", s)
	}
	n.do(t, "rmp", "-f", p.id)
}

func unknownGuest(t *testing.T, n *node, _ *podEvents) {
	annotated := func(guest string) string {
		config, _ := n.podConfig(t, nil)
		text, err := os.ReadFile(config)
		var o object
		if err == nil {
			err = json.Unmarshal(text, &o)
		}
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(o, object{"annotations": object{"io.containerd.uni.guest": guest}})
		return n.write(t, guest, o)
	}
	if r := n.cri(t, "", "runp", "--runtime", handler(), annotated("nosuch")); r.Code == 0 || !strings.Contains(r.Stderr, "is not one of: linux") {
		t.Errorf("%+v", r)
	}
	p := n.runPod(t, nil)
	id := p.create(t, object{"annotations": object{"io.containerd.uni.guest": "nanos"}}, "true")
	if r := n.cri(t, "", "start", id); r.Code == 0 || !strings.Contains(r.Stderr, "all of a pod have one guest") {
		t.Errorf("%+v", r)
	}
	p.ready(t)
}

// outOfMemoryScore: the host's kernel chooses a pod's machine as it would choose its
// containers.
func outOfMemoryScore(t *testing.T, n *node, _ *podEvents) {
	p := n.runPod(t, nil)
	scored := func(adj int) object {
		return object{"linux": object{"security_context": ownProcesses, "resources": object{"oom_score_adj": adj}}}
	}
	want := func(want string) {
		t.Helper()
		for _, name := range []string{"qemu-system", "virtiofsd:"} {
			for _, pid := range n.find(t, name) {
				got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
				if err != nil || strings.TrimSpace(string(got)) != want {
					t.Errorf("%s has %q, %v, want %s", name, got, err, want)
				}
			}
		}
	}
	p.run(t, scored(950), "sleep 1000")
	want("950")
	second := p.run(t, scored(980), "sleep 1000")
	want("930") // together they asked for 50 and 20 thousandths
	n.do(t, "rm", "-f", second)
	want("950")
}
