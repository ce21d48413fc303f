package hostfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestViewOfMounts needs root: what is mounted below a directory is part of its
// recursive view only, the other one shows what it hides.
func TestViewOfMounts(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("mounts a file system; set UNI_QEMU_TESTS=1")
	}
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := errors.Join(os.Mkdir(sub, 0o755), os.WriteFile(filepath.Join(sub, "hidden"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", sub, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(sub, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(sub, "mounted"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for recursive, want := range map[bool]string{true: "mounted", false: "hidden"} {
		path, done, err := View(dir, recursive)
		if err != nil {
			t.Fatal(err)
		}
		names, err := ReadNames(path + "/sub")
		if err != nil || !slices.Equal(names, []string{want}) {
			t.Errorf("recursive %v: %v, %v; want %s", recursive, names, err, want)
		}
		if s, err := Look(t.Context(), path, 1<<20); err != nil || s.Files != 3 {
			t.Errorf("recursive %v: %+v, %v", recursive, s, err)
		}
		if err := done(); err != nil {
			t.Error(err)
		}
		if !recursive {
			if _, err := os.Stat(path); err == nil {
				t.Error("the view is still there")
			}
		}
	}
}
