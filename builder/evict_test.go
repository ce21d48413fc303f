package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/unikernel"
)

// fill makes n roots of about a MiB with keys "0", "1", … in containers of the
// same names, each used a second after the one before.
func fill(t *testing.T, s *Store, container func(string) string, n int) {
	t.Helper()
	root := newFakeRoot(t, map[string]string{"f": strings.Repeat("x", 1<<20)})
	start := time.Now().Add(-time.Hour)
	for i := range n {
		dst := filepath.Join(container(strconv.Itoa(i)), "root.erofs")
		if err := s.Root(t.Context(), root.rootfs(strconv.Itoa(i)), dst); err != nil {
			t.Fatal(err)
		}
		used := start.Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(dst, used, used); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// cached says which of the keys are in the cache.
func cached(t *testing.T, s *Store, keys ...string) string {
	t.Helper()
	var in []string
	for _, k := range keys {
		if exists(t, filepath.Join(s.rootsDir(), digest(rootFormat, k)+".erofs")) {
			in = append(in, k)
		}
	}
	return strings.Join(in, " ")
}

const mib = 1 << 20

func TestPruneRemovesTheLeastRecentlyUsed(t *testing.T) {
	tests := []struct {
		keep  int64
		inUse string
		want  string
	}{
		{large, "", "0 1 2 3"},
		{4*mib + mib/2, "", "0 1 2 3"},
		{3*mib + mib/2, "", "1 2 3"},
		{2*mib + mib/2, "", "2 3"},
		{2*mib + mib/2, "0", "0 3"},
		{0, "1", "1"},
		{0, "0 1 2 3", "0 1 2 3"},
		{0, "", ""},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d/%s", tt.keep, tt.inUse), func(t *testing.T) {
			s, container := openStore(t, Options{MaxSize: large})
			fill(t, s, container, 4)
			for _, k := range []string{"0", "1", "2", "3"} {
				if !strings.Contains(tt.inUse, k) {
					remove(t, container(k))
				}
			}
			freed, err := s.Prune(tt.keep)
			if err != nil {
				t.Fatal(err)
			}
			if got := cached(t, s, "0", "1", "2", "3"); got != tt.want {
				t.Errorf("cache holds %q, want %q", got, tt.want)
			}
			if left := len(strings.Fields(tt.want)); freed.Files != 4-left || freed.Bytes/mib != int64(4-left) {
				t.Errorf("freed %+v", freed)
			}
			if files := cacheFiles(t, s); len(files) != len(strings.Fields(tt.want)) {
				t.Errorf("cache holds %q", files)
			}
		})
	}
}

func TestAHitCountsAsUse(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	fill(t, s, container, 3)
	root := newFakeRoot(t, nil)
	if err := s.Root(t.Context(), root.rootfs("0"), filepath.Join(container("again"), "r")); err != nil {
		t.Fatal(err)
	}
	if root.opened != 0 {
		t.Error("a cached root was opened")
	}
	for _, name := range []string{"0", "1", "2", "again"} {
		remove(t, container(name))
	}
	if _, err := s.Prune(mib + mib/2); err != nil {
		t.Fatal(err)
	}
	if got := cached(t, s, "0", "1", "2"); got != "0" {
		t.Errorf("cache holds %q, want the one used last", got)
	}
}

func TestInsertingEvicts(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: 2*mib + mib/2})
	fill(t, s, container, 2)
	remove(t, container("0"))
	remove(t, container("1"))
	root := newFakeRoot(t, map[string]string{"f": strings.Repeat("x", mib)})
	if err := s.Root(t.Context(), root.rootfs("2"), filepath.Join(container("2"), "r")); err != nil {
		t.Fatal(err)
	}
	if got := cached(t, s, "0", "1", "2"); got != "1 2" {
		t.Errorf("cache holds %q", got)
	}
}

func TestARootLargerThanTheCacheWorks(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: 0})
	fill(t, s, container, 2)
	if got := cached(t, s, "0", "1"); got != "0 1" {
		t.Errorf("cache holds %q: files in use must stay", got)
	}
	remove(t, container("0"))
	root := newFakeRoot(t, map[string]string{"f": "x"})
	if err := s.Root(t.Context(), root.rootfs("2"), filepath.Join(container("2"), "r")); err != nil {
		t.Fatal(err)
	}
	if got := cached(t, s, "0", "1", "2"); got != "1 2" {
		t.Errorf("cache holds %q", got)
	}
}

// Roots are linked while everything unused is evicted all the time: each Root
// must end with a whole file, and no file in use may leave the cache.
func TestEvictionRacesWithRoot(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	tree := newFakeRoot(t, map[string]string{"f": "contents"}).dir
	stop := make(chan struct{})
	var evictor, users sync.WaitGroup
	evictor.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Prune(0); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 4 {
		dir := container(strconv.Itoa(i))
		users.Go(func() {
			for n := range 60 {
				useRoot(t, s, tree, strconv.Itoa(n%2), filepath.Join(dir, strconv.Itoa(n)))
			}
		})
	}
	users.Wait()
	close(stop)
	evictor.Wait()
}

func useRoot(t *testing.T, s *Store, tree, key, dst string) {
	root := unikernel.Rootfs{Key: key, Open: func(context.Context) (string, func() error, error) {
		return tree, func() error { return nil }, nil
	}}
	if err := s.Root(t.Context(), root, dst); err != nil {
		t.Error(err)
		return
	}
	// While dst exists its file is in use and must be in the cache.
	mine, err := os.Stat(dst)
	if err != nil {
		t.Error(err)
		return
	}
	there, err := os.Stat(filepath.Join(s.rootsDir(), digest(rootFormat, key)+".erofs"))
	if err != nil || !os.SameFile(mine, there) {
		t.Errorf("key %s left the cache while in use: %v", key, err)
	}
	if err := os.Remove(dst); err != nil {
		t.Error(err)
	}
}

// diskFull fails like a full disk until room says otherwise.
func diskFull(s *Store, room func() bool) {
	write := s.writeTree
	s.writeTree = func(ctx context.Context, f *os.File, dir string) error {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return err
		}
		if !room() {
			return &os.PathError{Op: "write", Path: f.Name(), Err: unix.ENOSPC}
		}
		if err := f.Truncate(0); err != nil {
			return err
		}
		return write(ctx, f, dir)
	}
}

func TestFullDisk(t *testing.T) {
	for _, key := range []string{"", "new"} {
		t.Run("nothing to evict/"+key, func(t *testing.T) {
			s, container := openStore(t, Options{MaxSize: large})
			fill(t, s, container, 1)
			before := cacheFiles(t, s)
			diskFull(s, func() bool { return false })
			root := newFakeRoot(t, map[string]string{"f": "x"})
			dst := filepath.Join(container("new"), "r")
			if err := s.Root(t.Context(), root.rootfs(key), dst); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("error %v, want ENOSPC", err)
			}
			if after := cacheFiles(t, s); fmt.Sprint(after) != fmt.Sprint(before) || exists(t, dst) {
				t.Errorf("left %q, dst %v", after, exists(t, dst))
			}
			if root.opened != 1 || root.closed != 1 {
				t.Errorf("opened %d times, closed %d times", root.opened, root.closed)
			}
		})
		t.Run("eviction makes room/"+key, func(t *testing.T) {
			s, container := openStore(t, Options{MaxSize: large})
			fill(t, s, container, 1)
			remove(t, container("0"))
			diskFull(s, func() bool { return cached(t, s, "0") == "" })
			root := newFakeRoot(t, map[string]string{"f": "x"})
			if err := s.Root(t.Context(), root.rootfs(key), filepath.Join(container("new"), "r")); err != nil {
				t.Error(err)
			}
			if root.opened != 1 || root.closed != 1 {
				t.Errorf("opened %d times, closed %d times", root.opened, root.closed)
			}
		})
	}
}

// A file system that is really full.
func TestFullFileSystem(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("mounts a file system; set UNI_QEMU_TESTS=1")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(dir, Options{MaxSize: large, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	c := filepath.Join(dir, "c")
	if err := os.Mkdir(c, 0o700); err != nil {
		t.Fatal(err)
	}
	big := newFakeRoot(t, map[string]string{"f": strings.Repeat("x", 5<<20)})
	fits := newFakeRoot(t, map[string]string{"f": strings.Repeat("x", 3<<20)})
	for _, key := range []string{"", "big"} {
		if err := s.Root(t.Context(), big.rootfs(key), filepath.Join(c, "r")); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("key %q: error %v, want ENOSPC", key, err)
		}
		if files := cacheFiles(t, s); len(files) != 0 || exists(t, filepath.Join(c, "r")) {
			t.Errorf("key %q: left %q", key, files)
		}
	}
	for _, key := range []string{"1", "2"} { // the second only after the first is evicted
		if err := s.Root(t.Context(), fits.rootfs(key), filepath.Join(c, "r")); err != nil {
			t.Errorf("key %q: %v", key, err)
		}
		remove(t, filepath.Join(c, "r"))
	}
}

// The owners and modes of what QEMU opens when it is not root, and a cache and
// containers that are on two file systems.
func TestOwnersAndFileSystems(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("changes owners and mounts a file system; set UNI_QEMU_TESTS=1")
	}
	s, container := openStore(t, Options{MaxSize: large, UID: 64055, GID: 107})
	root := newFakeRoot(t, map[string]string{"f": "x"})
	dir := container("a")
	for _, key := range []string{"", "key"} {
		if err := s.Root(t.Context(), root.rootfs(key), filepath.Join(dir, "root"+key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Writable(t.Context(), filepath.Join(dir, "w"), 16<<20); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][3]uint32{
		"root": {0, 107, 0o440}, "rootkey": {0, 107, 0o440}, "w": {64055, 107, 0o600},
	} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || [3]uint32{st.Uid, st.Gid, st.Mode &^ unix.S_IFMT} != want {
			t.Errorf("%s: %d:%d %#o, %v, want %v", name, st.Uid, st.Gid, st.Mode, err, want)
		}
	}

	elsewhere := t.TempDir()
	if err := unix.Mount("tmpfs", elsewhere, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(elsewhere, 0); err != nil {
			t.Error(err)
		}
	})
	for _, key := range []string{"key", "new"} {
		err := s.Root(t.Context(), root.rootfs(key), filepath.Join(elsewhere, "r"))
		if !errors.Is(err, unix.EXDEV) || !strings.Contains(err.Error(), "one file system") {
			t.Errorf("key %s: error %v, want EXDEV", key, err)
		}
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
