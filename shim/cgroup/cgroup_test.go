package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/cgroups/v3/cgroup1/stats"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "/ns/c",
		"/default/c1":                  "/default/c1",
		"relative/c1":                  "/relative/c1",
		"/a//b/":                       "/a/b",
		"system.slice:cri:c1":          "/system.slice/cri-c1.scope",
		":uni:c1":                      "/system.slice/uni-c1.scope",
		"a-b-c.slice:p:n":              "/a.slice/a-b.slice/a-b-c.slice/p-n.scope",
		"-.slice:p:n":                  "/p-n.scope",
		"a.slice::n":                   "/a.slice/n.scope",
		"a.slice:p:n.slice":            "/a.slice/n.slice",
		"/kubepods/pod1:x:y":           "/kubepods/pod1:x:y",
		"kubepods-pod1.slice:cri:0123": "/kubepods.slice/kubepods-pod1.slice/cri-0123.scope",
	} {
		if got, err := PlaceOf(in, "ns", "c"); err != nil || got.Path != want || got.Scope != strings.HasSuffix(want, ".scope") {
			t.Errorf("%q: %+v, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"/", "//", "/../x", "/a/../..", "a:b:c", "a.slice:p:", "a--b.slice:p:n", "a.slice:p:x/y"} {
		if got, err := PlaceOf(in, "ns", "c"); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

// fakeHierarchy is cgroups in memory.
type fakeHierarchy struct {
	groups    map[string]*specs.LinuxResources
	pids      map[string][]int
	createErr error
	trimmed   int // how often systemd removes what an add needs
	killed    []int
}

func newFake() *fakeHierarchy {
	return &fakeHierarchy{groups: map[string]*specs.LinuxResources{}, pids: map[string][]int{}}
}

func (f *fakeHierarchy) roots() []string         { return nil }
func (f *fakeHierarchy) exists(path string) bool { return f.groups[path] != nil }
func (f *fakeHierarchy) create(path string, res *specs.LinuxResources) error {
	f.groups[path] = res // also when it fails half-way
	return f.createErr
}
func (f *fakeHierarchy) add(path string, pid int) error {
	if f.trimmed > 0 {
		f.trimmed--
		return os.ErrNotExist
	}
	f.pids[path] = append(f.pids[path], pid)
	return nil
}
func (f *fakeHierarchy) join(path string, pid int) error {
	if !f.exists(path) {
		return os.ErrNotExist
	}
	return f.add(path, pid)
}
func (f *fakeHierarchy) update(path string, res *specs.LinuxResources) error {
	f.groups[path] = res
	return nil
}
func (f *fakeHierarchy) stats(string) (proto.Message, error) { return &stats.Metrics{}, nil }
func (f *fakeHierarchy) oomKills(string) (uint64, error)     { return 0, os.ErrNotExist }
func (f *fakeHierarchy) bounds(string) Bounds                { return Bounds{} }
func (f *fakeHierarchy) kill(path string) error {
	f.killed = append(f.killed, f.pids[path]...)
	delete(f.pids, path)
	return nil
}
func (f *fakeHierarchy) remove(path string) error {
	delete(f.groups, path)
	return nil
}

func TestCreateAndRemove(t *testing.T) {
	f, record := newFake(), filepath.Join(t.TempDir(), "cgroup")
	quota := int64(50_000)
	g, err := create(f, record, Place{Path: "/ns/c"}, Limits{MemoryBytes: 1 << 20, CPU: &specs.LinuxCPU{Quota: &quota, RealtimeRuntime: &quota}})
	if err != nil {
		t.Fatal(err)
	}
	res := f.groups["/ns/c"]
	if *res.Memory.Limit != 1<<20 || *res.CPU.Quota != quota || *res.CPU.Period != 100_000 || res.CPU.RealtimeRuntime != nil || res.Pids != nil {
		t.Errorf("limits %+v %+v", res.Memory, res.CPU)
	}
	if err := g.Add(1, 2); err != nil || !slices.Equal(f.pids["/ns/c"], []int{1, 2}) {
		t.Errorf("processes %v, %v", f.pids, err)
	}
	if g.OOMKills() != 0 {
		t.Error("processes were killed")
	}
	// Another process removes it, knowing the record alone.
	if err := remove(f, record); err != nil || len(f.groups) > 0 || !slices.Equal(f.killed, []int{1, 2}) {
		t.Errorf("left %v, killed %v, %v", f.groups, f.killed, err)
	}
	if _, err := os.Stat(record); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record is left: %v", err)
	}
	if err := remove(f, record); err != nil {
		t.Errorf("remove again: %v", err)
	}
}

func TestJoin(t *testing.T) {
	f := newFake()
	if err := join(f, "shims", 7); !errors.Is(err, unikernel.ErrInvalid) || len(f.pids) > 0 {
		t.Errorf("a cgroup that is not there: %v", err)
	}
	f.groups["/shims"] = &specs.LinuxResources{}
	if err := join(f, "shims/", 7); err != nil || !slices.Equal(f.pids["/shims"], []int{7}) {
		t.Errorf("%v, %v", f.pids, err)
	}
}

func TestExistingIsNeverRemoved(t *testing.T) {
	f, record := newFake(), filepath.Join(t.TempDir(), "cgroup")
	f.groups["/theirs"] = &specs.LinuxResources{}
	g, err := create(f, record, Place{Path: "/theirs"}, Limits{MemoryBytes: 1})
	if err != nil || g.Path() != "/theirs" || *f.groups["/theirs"].Memory.Limit != 1 {
		t.Errorf("%v, %v", g, err)
	}
	if err := remove(f, record); err != nil || !f.exists("/theirs") {
		t.Errorf("a cgroup that was there before is gone: %v", err)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	f, record := newFake(), filepath.Join(t.TempDir(), "cgroup")
	f.createErr = errors.New("no")
	if _, err := create(f, record, Place{Path: "/ns/c"}, Limits{}); !errors.Is(err, f.createErr) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(record); len(f.groups) > 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v, record %v", f.groups, err)
	}
}

func TestOddRecord(t *testing.T) {
	f, record := newFake(), filepath.Join(t.TempDir(), "cgroup")
	f.groups["/"] = &specs.LinuxResources{}
	for _, content := range []string{"", "/", "relative"} {
		if err := os.WriteFile(record, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := remove(f, record); err != nil || !f.exists("/") {
			t.Errorf("record %q: %v", content, err)
		}
	}
}

func TestReadCounter(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.events")
	if err := os.WriteFile(file, []byte("low 0\noom 3\noom_kill 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint64{"oom_kill": 2, "oom": 3, "absent": 0} {
		if got, err := readCounter(file, name); err != nil || got != want {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	if _, err := readCounter(file+"x", "oom"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestUnifiedWithoutControllers(t *testing.T) {
	u := unified{root: t.TempDir()}
	if u.exists("/a") || u.remove("/a") != nil || u.kill("/a") != nil {
		t.Error("an absent cgroup is trouble")
	}
	if err := u.add("/a", 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("add: %v", err)
	}
}
