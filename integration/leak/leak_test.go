package leak

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLeftNamesWhatIsNew(t *testing.T) {
	dir := t.TempDir()
	state, data := filepath.Join(dir, "run"), filepath.Join(dir, "lib")
	mkdir := func(path string) string {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mkdir(filepath.Join(state, "aaaaaaaaaaaaaaaaaaaa"))
	pids, mounts := []int{}, []string{}
	c := NewChecker(Scope{
		Namespace: "leak-test-of-no-container", Dir: dir, StateDir: state, DataDir: data,
		Processes: func() []int { return pids },
		Mounts:    func() ([]string, error) { return mounts, nil },
	})
	if left := c.Left(); len(left) > 0 {
		t.Fatalf("what was there before is left: %q", left)
	}
	mkdir(filepath.Join(state, "capabilities")) // not a container's
	key := mkdir(filepath.Join(state, "0123456789abcdef0123"))
	disk := mkdir(filepath.Join(data, "containers", "0123456789abcdef0123"))
	pids, mounts = []int{os.Getpid()}, []string{dir + "/m"}
	left := c.Left()
	if len(left) != 4 {
		t.Errorf("got %q", left)
	}
	for _, want := range []string{"mount " + dir + "/m", "state of a container " + key, "data of a container " + disk} {
		if !slices.Contains(left, want) {
			t.Errorf("%q is not in %q", want, left)
		}
	}
}

// TestEmptyParents: a cgroup that the runtime made for containers goes with the last.
func TestEmptyParents(t *testing.T) {
	dir := filepath.Join("/sys/fs/cgroup", "leak-test")
	if trees, _ := filepath.Glob("/sys/fs/cgroup/memory/cgroup.procs"); len(trees) > 0 {
		dir = "/sys/fs/cgroup/memory/leak-test"
	}
	if os.Getenv("UNI_QEMU_TESTS") == "" {
		t.Skip("needs root: set UNI_QEMU_TESTS=1")
	}
	child := filepath.Join(dir, "c1")
	t.Cleanup(func() { _ = os.Remove(child); _ = os.Remove(dir) }) // as far as they are there
	if err := os.MkdirAll(child, 0o755); err != nil {
		t.Fatal(err)
	}
	is := func(what string, want ...string) {
		t.Helper()
		if got := cgroups("leak-test"); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	is("a container", child)
	if err := unix.Setxattr(dir, parentMark, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	is("a container, the parent is the runtime's", child)
	if err := os.Remove(child); err != nil {
		t.Fatal(err)
	}
	is("no container", dir)
	if err := unix.Removexattr(dir, parentMark); err != nil {
		t.Fatal(err)
	}
	is("no container, the parent is not the runtime's")
}
