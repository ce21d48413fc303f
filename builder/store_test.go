package builder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// openStore returns a Store in a temporary directory and a function that makes
// directories for containers beside its cache.
func openStore(t *testing.T, opts Options) (*Store, func(name string) string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if opts.Log == nil {
		opts.Log = t.Logf
	}
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s, func(name string) string {
		t.Helper()
		path := filepath.Join(dir, "containers", name)
		if err := os.MkdirAll(path, 0o711); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// fakeRoot is a root file system of files, which counts how it is used.
type fakeRoot struct {
	dir            string
	opened, closed int
	openErr        error
	closeErr       error
}

func newFakeRoot(t *testing.T, files map[string]string) *fakeRoot {
	t.Helper()
	r := &fakeRoot{dir: t.TempDir()}
	for name, contents := range files {
		path := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(contents), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *fakeRoot) rootfs(key string) unikernel.Rootfs {
	return unikernel.Rootfs{Key: key, Open: func(context.Context) (string, func() error, error) {
		r.opened++
		if r.openErr != nil {
			return "", nil, r.openErr
		}
		return r.dir, func() error { r.closed++; return r.closeErr }, nil
	}}
}

// cacheFiles returns what is in the cache beside its lock.
func cacheFiles(t *testing.T, s *Store) []string {
	t.Helper()
	var names []string
	for _, dir := range []string{s.rootsDir(), s.templatesDir(), s.volumesDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, filepath.Join(filepath.Base(dir), e.Name()))
		}
	}
	return names
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func inode(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

const large = 1 << 40 // a cache without a bound that matters

func TestRootIsBuiltOnceAndLinked(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	root := newFakeRoot(t, map[string]string{"etc/hostname": "x"})
	a, b := filepath.Join(container("a"), "root.erofs"), filepath.Join(container("b"), "root.erofs")
	for _, dst := range []string{a, b} {
		if err := s.Root(t.Context(), root.rootfs("key"), dst); err != nil {
			t.Fatal(err)
		}
	}
	if root.opened != 1 || root.closed != 1 {
		t.Errorf("opened %d times, closed %d times, want once", root.opened, root.closed)
	}
	if !os.SameFile(inode(t, a), inode(t, b)) {
		t.Error("two containers of one image have different files")
	}
	if mode := inode(t, a).Mode(); mode != 0o400 {
		t.Errorf("mode is %v", mode)
	}
	if files := cacheFiles(t, s); len(files) != 1 || !strings.HasSuffix(files[0], ".erofs") {
		t.Errorf("cache holds %q", files)
	}
	c := filepath.Join(container("c"), "root.erofs")
	if err := s.Root(t.Context(), root.rootfs("other"), c); err != nil {
		t.Fatal(err)
	}
	if os.SameFile(inode(t, a), inode(t, c)) {
		t.Error("different keys share a file")
	}
}

func TestRootWithoutKeyIsPrivate(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	root := newFakeRoot(t, map[string]string{"f": "x"})
	for _, name := range []string{"a", "b"} {
		dst := filepath.Join(container(name), "root.erofs")
		if err := s.Root(t.Context(), root.rootfs(""), dst); err != nil {
			t.Fatal(err)
		}
		if mode := inode(t, dst).Mode(); mode != 0o400 {
			t.Errorf("mode is %v", mode)
		}
	}
	if root.opened != 2 || root.closed != 2 {
		t.Errorf("opened %d times, closed %d times, want twice", root.opened, root.closed)
	}
	if files := cacheFiles(t, s); len(files) != 0 {
		t.Errorf("cache holds %q", files)
	}
}

func TestRootFailuresLeaveNothing(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name   string
		root   func(*fakeRoot)
		closed int
	}{
		{"open fails", func(r *fakeRoot) { r.openErr = broken }, 0},
		{"close fails", func(r *fakeRoot) { r.closeErr = broken }, 1},
		{"no directory", func(r *fakeRoot) { r.dir += "/missing" }, 1},
		{"a file as root", func(r *fakeRoot) { r.dir += "/f" }, 1},
	}
	for _, tt := range tests {
		for _, key := range []string{"", "key"} {
			t.Run(tt.name+"/"+key, func(t *testing.T) {
				s, container := openStore(t, Options{MaxSize: large})
				root := newFakeRoot(t, map[string]string{"f": "x"})
				good := root.dir
				tt.root(root)
				dst := filepath.Join(container("a"), "root.erofs")
				err := s.Root(t.Context(), root.rootfs(key), dst)
				if err == nil {
					t.Fatal("no error")
				}
				if (root.openErr != nil || root.closeErr != nil) && !errors.Is(err, broken) {
					t.Errorf("error %v does not wrap the cause", err)
				}
				if root.closed != tt.closed {
					t.Errorf("closed %d times, want %d", root.closed, tt.closed)
				}
				if files := cacheFiles(t, s); len(files) != 0 || exists(t, dst) {
					t.Errorf("left %q, dst %v", files, exists(t, dst))
				}
				*root = fakeRoot{dir: good}
				if err := s.Root(t.Context(), root.rootfs(key), dst); err != nil {
					t.Errorf("a second try: %v", err)
				}
			})
		}
	}
}

func TestRootRefusesAnExistingDestination(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	root := newFakeRoot(t, map[string]string{"f": "x"})
	dst := filepath.Join(container("a"), "root.erofs")
	if err := os.WriteFile(dst, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", "key", "key"} {
		if err := s.Root(t.Context(), root.rootfs(key), dst); !errors.Is(err, fs.ErrExist) {
			t.Errorf("key %q: error %v, want ErrExist", key, err)
		}
		if data, err := os.ReadFile(dst); err != nil || string(data) != "mine" {
			t.Fatalf("key %q: the existing file became %q, %v", key, data, err)
		}
	}
}

func TestRootNeedsTheContainersDirectory(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	root := newFakeRoot(t, map[string]string{"f": "x"})
	if err := s.Root(t.Context(), root.rootfs("key"), filepath.Join(container("a"), "r")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", "key", "new"} {
		err := s.Root(t.Context(), root.rootfs(key), filepath.Join(container("a"), "missing", "r"))
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("key %q: error %v, want ErrNotExist", key, err)
		}
	}
}

func TestRootEndsWithItsContext(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	root := newFakeRoot(t, map[string]string{"f": "x"})
	ctx, cancel := context.WithCancel(t.Context())
	rootfs := root.rootfs("key")
	open := rootfs.Open
	rootfs.Open = func(ctx context.Context) (string, func() error, error) {
		cancel()
		return open(ctx)
	}
	dst := filepath.Join(container("a"), "root.erofs")
	if err := s.Root(ctx, rootfs, dst); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
	if root.closed != 1 {
		t.Error("the root file system was not closed")
	}
	if files := cacheFiles(t, s); len(files) != 0 || exists(t, dst) {
		t.Errorf("left %q, dst %v", files, exists(t, dst))
	}
}

func TestWaiterEndsWithItsContext(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	root := newFakeRoot(t, map[string]string{"f": "x"})
	building, finish := make(chan struct{}), make(chan struct{})
	slow := root.rootfs("key")
	open := slow.Open
	slow.Open = func(ctx context.Context) (string, func() error, error) {
		close(building)
		<-finish
		return open(ctx)
	}
	built := make(chan error, 1)
	a, b := filepath.Join(container("a"), "r"), filepath.Join(container("b"), "r")
	go func() { built <- s.Root(t.Context(), slow, a) }()
	<-building
	ctx, cancel := context.WithTimeout(t.Context(), 4*pollInterval)
	defer cancel()
	if err := s.Root(ctx, newFakeRoot(t, nil).rootfs("key"), b); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want DeadlineExceeded", err)
	}
	close(finish)
	if err := <-built; err != nil {
		t.Error(err)
	}
	if exists(t, b) {
		t.Error("the waiter that gave up left a file")
	}
}

func TestOpenMakesDirectoriesToPassThrough(t *testing.T) {
	s, _ := openStore(t, Options{})
	for _, dir := range []string{s.dir, s.rootsDir(), s.templatesDir(), s.volumesDir(), filepath.Dir(s.dir)} {
		if mode := inode(t, dir).Mode().Perm(); mode != 0o711 {
			t.Errorf("%s has mode %v", dir, mode)
		}
	}
	if _, err := Open("relative", Options{}); err == nil {
		t.Error("a relative directory was opened")
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, Options{}); err == nil {
		t.Error("a file was opened as a Store")
	}
}
