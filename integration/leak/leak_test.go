package leak

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
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
