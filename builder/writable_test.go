package builder

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeMke2fs makes a Store use a shell script in place of mke2fs. The script
// sees the image's path as $image.
func fakeMke2fs(t *testing.T, s *Store, script string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mke2fs")
	script = "#!/bin/sh\nPATH=/usr/bin:/bin\nfor image; do :; done\n" + script
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s.mke2 = path
}

func TestWritable(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	fakeMke2fs(t, s, `echo "$*" >> "`+s.dir+`/calls"; printf formatted | dd of="$image" conv=notrunc 2>/dev/null`)
	for _, name := range []string{"a", "b"} {
		dst := filepath.Join(container(name), "writable.ext4")
		if err := s.Writable(t.Context(), dst, 32<<20-1); err != nil {
			t.Fatal(err)
		}
		if mode := inode(t, dst).Mode(); mode != 0o600 {
			t.Errorf("mode is %v", mode)
		}
		if data, err := os.ReadFile(dst); err != nil || len(data) != 32<<20 || !bytes.HasPrefix(data, []byte("formatted")) {
			t.Errorf("the layer has %d bytes, %v", len(data), err)
		}
	}
	if os.SameFile(inode(t, filepath.Join(container("a"), "writable.ext4")), inode(t, filepath.Join(container("b"), "writable.ext4"))) {
		t.Error("two containers share a writable layer")
	}
	calls, err := os.ReadFile(filepath.Join(s.dir, "calls"))
	if err != nil || strings.Count(string(calls), "\n") != 1 {
		t.Errorf("mke2fs ran as %q, %v, want once", calls, err)
	}
	if err := s.Writable(t.Context(), filepath.Join(container("c"), "w"), 64<<20); err != nil {
		t.Fatal(err)
	}
	if files := cacheFiles(t, s); len(files) != 2 {
		t.Errorf("cache holds %q, want a template for each size", files)
	}
	// A template is no container's once it is copied.
	if freed, err := s.Prune(0); err != nil || freed.Files != 2 {
		t.Errorf("Prune = %+v, %v", freed, err)
	}
}

func TestWritableFailuresLeaveNothing(t *testing.T) {
	tests := []struct {
		name, script string
		want         string
	}{
		{"mke2fs fails", `echo out; printf 'bad\noption\n' >&2; exit 3`, "exit status 3: out bad option"},
		{"mke2fs is killed", `kill -9 $$`, "killed"},
		{"mke2fs talks", `yes | head -c 100000; exit 1`, "…"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, container := openStore(t, Options{MaxSize: large})
			fakeMke2fs(t, s, tt.script)
			dir := container("a")
			err := s.Writable(t.Context(), filepath.Join(dir, "w"), 32<<20)
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 1000 {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			left, rerr := os.ReadDir(dir)
			if files := cacheFiles(t, s); rerr != nil || len(files)+len(left) != 0 {
				t.Errorf("left %q, %q", files, left)
			}
		})
	}
}

func TestWritableErrors(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	dst := filepath.Join(container("a"), "w")
	for _, size := range []int64{-1, 0, minWritable - 1, maxWritable + 1} {
		if err := s.Writable(t.Context(), dst, size); err == nil || !strings.Contains(err.Error(), "are possible") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	s.mke2 = ""
	if err := s.Writable(t.Context(), dst, 32<<20); err == nil || !strings.Contains(err.Error(), "install e2fsprogs") {
		t.Errorf("without mke2fs: %v", err)
	}
	fakeMke2fs(t, s, "exit 0")
	if err := os.WriteFile(dst, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Writable(t.Context(), dst, 32<<20); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an existing destination: %v", err)
	}
	if left, err := os.ReadDir(container("a")); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if data, err := os.ReadFile(dst); err != nil || string(data) != "mine" {
		t.Errorf("the existing file became %q, %v", data, err)
	}
}

func TestWritableEndsWithItsContext(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	fifo := filepath.Join(t.TempDir(), "started")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	fakeMke2fs(t, s, `echo x > "`+fifo+`"; exec sleep 1000`)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if _, err := os.ReadFile(fifo); err != nil {
			t.Error(err)
		}
		cancel()
	}()
	if err := s.Writable(ctx, filepath.Join(container("a"), "w"), 32<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
	if files := cacheFiles(t, s); len(files) != 0 {
		t.Errorf("left %q", files)
	}
}

// The real mke2fs makes a layer that is clean and small.
func TestWritableIsSound(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	if s.mke2 == "" {
		t.Skip("mke2fs is not installed")
	}
	dst := filepath.Join(container("a"), "writable.ext4")
	if err := s.Writable(t.Context(), dst, 10<<30); err != nil {
		t.Fatal(err)
	}
	fsck := filepath.Join(filepath.Dir(s.mke2), "e2fsck")
	if out, err := exec.CommandContext(t.Context(), fsck, "-fn", dst).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	var st unix.Stat_t
	if err := unix.Stat(dst, &st); err != nil || st.Blocks*512 > 4*mib {
		t.Errorf("the layer occupies %d KiB, %v", st.Blocks/2, err)
	}
}

func TestBytesPerInode(t *testing.T) {
	for in, want := range map[[2]int64]int64{
		{64 << 20, 0}: 4096, {512<<20 - 1, 0}: 4096, {512 << 20, 0}: 16384, {10 << 30, 0}: 16384,
		{1 << 30, 32_768}: 16384, {1 << 30, 32_769}: 4096,
	} {
		if got := bytesPerInode(in[0], int(in[1])); got != want {
			t.Errorf("%d MiB, %d files: %d, want %d", in[0]>>20, in[1], got, want)
		}
	}
}

// The kernel mounts a template and finds what the guest needs.
func TestTemplateMounts(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("mounts a file system; set UNI_QEMU_TESTS=1")
	}
	s, container := openStore(t, Options{MaxSize: large})
	if err := s.Writable(t.Context(), filepath.Join(container("a"), "w"), 1<<30); err != nil {
		t.Fatal(err)
	}
	mnt := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "ext4", "-o", "loop,ro", filepath.Join(container("a"), "w"), mnt).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"upper", "work"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(mnt, name), &st); err != nil || st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(mnt, &st); err != nil || st.Bavail*uint64(st.Bsize) < 900<<20 {
		t.Errorf("%d bytes free, %v", st.Bavail*uint64(st.Bsize), err)
	}
}
