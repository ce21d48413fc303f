package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"containerd-shim-uni/integration/image"
)

const broken = "uni.local/broken:latest"

// loadBroken imports an image of programs that cannot run: without the loader,
// without a library, for another machine; and a shell with a program to start.
func loadBroken(t *testing.T, h *host) {
	t.Helper()
	dir := t.TempDir()
	const loader = "/lib64/ld-linux-x86-64.so.2"
	linked, err := filepath.EvalSymlinks("/bin/dash") // any dynamic program
	if err != nil {
		t.Fatal(err)
	}
	for to, from := range map[string]string{
		"bin/sh": linked, "bin/noloader": linked, "sub/nolibrary": linked, "bin/app": filepath.Join(world.dir, "amd64/hello"),
		"bin/arm": filepath.Join(world.dir, "arm64/hello"), "sub/ld.so": loader,
	} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if to == "sub/nolibrary" { // as long as the original
			data = []byte(strings.Replace(string(data), loader, "/sub/ld.so"+strings.Repeat("\x00", len(loader)-len("/sub/ld.so")), 1))
		}
		path := filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	i := image.Tree(broken, dir, v1.ImageConfig{Env: []string{"PATH=/bin"}})
	if err := i.WriteFile(archive(broken)); err != nil {
		t.Fatal(err)
	}
	h.load(t, broken)
	t.Cleanup(func() { h.ok(t, "images", "rm", "--sync", broken) })
}

// refusals runs programs of the broken image and wants errors that say what is
// wrong and what to do.
func (h *host) refusals(t *testing.T, want map[string][]string) {
	t.Helper()
	for command, texts := range want {
		got := h.run(t, container{image: broken}, strings.Split(command, " ")...)
		for _, text := range texts {
			if got.Code == 0 || !strings.Contains(got.Stderr, text) {
				t.Errorf("%s: no %q in %+v", command, text, got)
			}
		}
		h.ctr(t, "container", "rm", "c1")
	}
}

func TestAdvice(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		loadBroken(t, h)
		h.refusals(t, map[string][]string{
			"nosuch":   {`exec: "nosuch": executable file not found in $PATH`, "correct the entry point or add the file"},
			"noloader": {"no such file or directory", "/bin/noloader needs /lib64/ld-linux-x86-64.so.2, which is not in the image: use a base image"},
			"arm":      {"exec format error", "/bin/arm is for EM_AARCH64", "build it for linux/amd64"},
		})
	})
}

func TestNanosAdvice(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		loadBroken(t, h)
		h.refusals(t, map[string][]string{
			"/bin/sh -c app": {"is a shell", "make the program itself the entry point", "use the guest linux"},
			"noloader":       {"/bin/noloader needs /lib64/ld-linux-x86-64.so.2", "use a base image"},
			"/sub/nolibrary": {"/sub/nolibrary needs libc.so.6", "install the package"},
			"arm":            {"/bin/arm is for EM_AARCH64", "build it for linux/amd64"},
		})
		if got := h.run(t, container{image: broken}, "app"); got.Code != 0 || !strings.Contains(got.Stdout, "hello") {
			t.Errorf("the program itself: %+v", got)
		}
	})
}
