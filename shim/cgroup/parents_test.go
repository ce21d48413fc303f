package cgroup

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Parents go with the last cgroup below them, whoever made them; others' stay.
func TestParents(t *testing.T) {
	oldMark, oldMarked := mark, marked
	defer func() { mark, marked = oldMark, oldMarked }()
	marks := map[string]bool{}
	mark = func(dir string) error { marks[dir] = true; return nil }
	marked = func(dir string) bool { return marks[dir] }

	roots := []string{t.TempDir(), t.TempDir()}
	make := func(path string) {
		missing := missingParents(roots, path)
		for _, root := range roots {
			if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		markParents(missing)
	}
	remove := func(path string) {
		for _, root := range roots {
			if err := os.Remove(filepath.Join(root, path)); err != nil {
				t.Fatal(err)
			}
		}
		removeParents(roots, path)
	}
	want := func(path string, there bool) {
		t.Helper()
		for _, root := range roots {
			if _, err := os.Stat(filepath.Join(root, path)); (err == nil) != there {
				t.Errorf("%s is there: %t, want %t", path, err == nil, there)
			}
		}
	}
	for _, root := range roots {
		if err := os.Mkdir(filepath.Join(root, "theirs"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	make("/theirs/a/b/c1")
	make("/theirs/a/b/c2")
	make("/ns/c3")
	remove("/theirs/a/b/c1") // it made the parents
	want("/theirs/a/b/c2", true)
	remove("/theirs/a/b/c2") // and it leaves them empty
	want("/theirs/a", false)
	want("/theirs", true)
	remove("/ns/c3")
	want("/ns", false)
}

// One that makes a cgroup and one that removes its parents never meet.
func TestExclusive(t *testing.T) {
	roots := []string{t.TempDir()}
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			exclusive(roots, func() {
				if inside.Add(1) != 1 {
					t.Error("two at once")
				}
				inside.Add(-1)
			})
		})
	}
	wg.Wait()
}
