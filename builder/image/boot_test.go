package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
)

// An image and a directory with the same files are the same file system.
func TestDirectoryAndImage(t *testing.T) {
	big := strings.Repeat("\x00", 2<<20) + "data" + strings.Repeat("\x00", 300_000)
	fromImage, err := flattenLayers(t,
		tarFile(t, dir("./"), dir("bin"), file("bin/app", "x"), hard("bin/again", "bin/app"), link("bin/up", "../../bin"), file("gone", "y")),
		tarFile(t, file("big", big), file(".wh.gone", ""), link("dangling", "/nowhere"), file(strings.Repeat("n", 255), "long")))
	must(t, err)

	host := t.TempDir()
	must(t, os.Mkdir(filepath.Join(host, "bin"), 0o755))
	must(t, os.WriteFile(filepath.Join(host, "bin/app"), []byte("x"), 0o644))
	must(t, os.Link(filepath.Join(host, "bin/app"), filepath.Join(host, "bin/again")))
	must(t, os.Symlink("../../bin", filepath.Join(host, "bin/up")))
	must(t, os.Symlink("/nowhere", filepath.Join(host, "dangling")))
	must(t, os.WriteFile(filepath.Join(host, strings.Repeat("n", 255)), []byte("long"), 0o644))
	sparse, err := os.Create(filepath.Join(host, "big"))
	must(t, err)
	must(t, sparse.Truncate(int64(len(big))))
	_, err = sparse.WriteAt([]byte("data"), 2<<20)
	must(t, errors.Join(err, sparse.Close()))
	ts := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
	for _, name := range []string{"bin/app", "bin/up", "bin", "dangling", "big", strings.Repeat("n", 255)} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(host, name), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	fromHost, err := tree.Scan(t.Context(), host)
	must(t, err)

	var disks [2][]byte
	for i, root := range []*tree.Node{fromImage, fromHost} {
		f := newFile(t)
		must(t, tfs.Volume{}.Write(t.Context(), f, root))
		disks[i], err = os.ReadFile(f.Name())
		must(t, err)
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("the file systems differ")
	}
}

func newFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWriteBoot(t *testing.T) {
	boot := Boot{Loader: append(make([]byte, 510), 0x55, 0xaa), Kernel: []byte("\x7fELF"), Program: "/bin/app", Free: 1}
	image := func(config v1.Config) (*Image, *Tree) {
		root, err := flattenLayers(t, tarFile(t, file("bin/app", "x")))
		must(t, err)
		i := &Image{ID: "sha256:1", close: func() error { return nil }}
		i.Config.Config = config
		return i, &Tree{Root: root}
	}
	i, files := image(v1.Config{Entrypoint: []string{"app"}, Cmd: []string{"x"}})
	f := newFile(t)
	want, err := i.WriteBoot(t.Context(), files, boot, f)
	must(t, err)
	st, err := f.Stat()
	must(t, err)
	got, err := ReadManifest(f, st.Size())
	if err != nil || got.Program != want.Program || got.Kernel != want.Kernel || got.Boot == got.Kernel || got.Image != "sha256:1" ||
		got.Guest != "nanos" || got.Size != st.Size()-tfs.RootOffset-4096 {
		t.Errorf("manifest %+v, %v", got, err)
	}
	disk, err := tfs.Open(f, st.Size())
	must(t, err)
	if args := disk.Root.Root.Get("arguments").(*tfs.List).Items(); len(args) != 2 || args[1] != "x" {
		t.Errorf("arguments %q", args)
	}

	bare := boot
	bare.Program = ""
	f = newFile(t)
	_, err = i.WriteBoot(t.Context(), files, bare, f)
	must(t, err)
	if disk, err = tfs.Open(f, st.Size()); err != nil || disk.Root.Root.Get("arguments") != nil {
		t.Errorf("a disk without a program: %v", err)
	}

	long, files := image(v1.Config{Env: []string{"A=" + strings.Repeat("x", tfs.LogOffset)}})
	noKernel := boot
	noKernel.Kernel = nil
	for name, write := range map[string]func(context.Context) error{
		"long":      func(ctx context.Context) error { _, err := long.WriteBoot(ctx, files, bare, newFile(t)); return err },
		"no kernel": func(ctx context.Context) error { _, err := i.WriteBoot(ctx, files, noKernel, newFile(t)); return err },
	} {
		if err := write(t.Context()); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
