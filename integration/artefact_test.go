package integration

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"containerd-shim-uni/integration/image"
)

// startRegistry serves a registry without TLS in this process, and returns the
// start of its references.
func startRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/"
}

// pushDisk makes an image a disk and pushes that.
func pushDisk(t *testing.T, reference, name string, flags ...string) {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{
		append([]string{"build", archive(name), "-o", disk}, flags...),
		{"push", "--plain-http", disk, reference},
	} {
		if out, err := uniCommand(t, 0, args...); err != nil {
			t.Fatalf("uni %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
}

// pull has containerd fetch and unpack an image, which is removed in the end.
func (h *host) pull(t *testing.T, reference string, flags ...string) {
	t.Helper()
	h.ok(t, append(append([]string{"images", "pull", "--plain-http"}, flags...), reference)...)
	t.Cleanup(func() { h.ok(t, "images", "rm", "--sync", reference) })
}

// roots are the disks in the runtime's cache.
func (h *host) roots(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(h.data, "cache/roots/*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// usesSnapshot fails the test unless the disk of the only container is, under
// another name, the file of a snapshot.
func (h *host) usesSnapshot(t *testing.T, disk string) {
	t.Helper()
	own := stats(t, filepath.Join(h.data, "containers/*", disk))
	snapshots := stats(t, filepath.Join(h.Dir, "*/io.containerd.snapshotter.v1.*/snapshots/*/fs/.uni/disk.img"),
		filepath.Join(h.Dir, "*/io.containerd.snapshotter.v1.*/snapshots/*/.uni/disk.img"))
	if len(own) != 1 || !slices.ContainsFunc(snapshots, func(s os.FileInfo) bool { return os.SameFile(s, own[0]) }) {
		t.Errorf("%d disks, of which none is one of %d snapshots", len(own), len(snapshots))
	}
	for _, s := range snapshots {
		if s.Mode().Perm() != 0o444 {
			t.Errorf("a snapshot's disk has mode %v now", s.Mode())
		}
	}
}

func stats(t *testing.T, patterns ...string) (all []os.FileInfo) {
	t.Helper()
	for _, pattern := range patterns {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, info)
		}
	}
	return all
}

// What uni push stores runs as the image it was made from, and its disk is
// neither converted nor copied.
func TestPushedDisk(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		at := startRegistry(t)
		loadNamed(t, h)
		for _, format := range []string{"raw", "qcow2"} {
			ref := at + "busybox:" + format
			pushDisk(t, ref, named, "--format", format)
			h.pull(t, ref)
			before := h.roots(t)
			h.detach(t, container{image: ref}, "sleep", "1000")
			h.usesSnapshot(t, "root.erofs")
			got := h.ctr(t, "tasks", "exec", "--exec-id", "e", "c1", "sh", "-c", "echo in >/tmp/new && cat /tmp/new")
			if got.Code != 0 || got.Stdout != "in\n" {
				t.Errorf("%s: exec: %+v", format, got)
			}
			h.remove(t, "c1")
			if after := h.roots(t); !slices.Equal(before, after) {
				t.Errorf("%s: made in the cache: %v, was %v", format, after, before)
			}
			h.sameRun(t, ref, nil)
		}
	})
}

// named is busybox for a user that only the image's files know.
const named = "uni.local/named:latest"

func loadNamed(t *testing.T, h *host) {
	t.Helper()
	bb, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	i, err := image.Busybox(named, bb)
	if err != nil {
		t.Fatal(err)
	}
	i.Config.User, i.Config.WorkingDir = "user:extra", "/tmp"
	if err := i.WriteFile(archive(named)); err != nil {
		t.Fatal(err)
	}
	h.load(t, named)
	t.Cleanup(func() { h.ok(t, "images", "rm", "--sync", named) })
}

// sameRun compares a pushed disk with the image that it was made of.
func (h *host) sameRun(t *testing.T, reference string, flags []string) {
	t.Helper()
	const script = "id; pwd; echo $PATH; echo err >&2; [ ! -e /.uni ] && exit 7"
	want := h.run(t, container{image: named}, "sh", "-c", script)
	got := h.run(t, container{image: reference, flags: flags}, "sh", "-c", script)
	if got != want || want.Code != 7 || !strings.Contains(want.Stdout, "uid=1000(user)") {
		t.Errorf("%s: %+v, the image: %+v", reference, got, want)
	}
}

// A snapshotter that makes a copy for each container.
func TestPushedDiskNative(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		ref := startRegistry(t) + "busybox:native"
		loadNamed(t, h)
		pushDisk(t, ref, named)
		flags := []string{"--snapshotter", "native"}
		if strings.HasPrefix(h.Version, "1.6.") {
			h.pull(t, ref, flags...)
		} else { // containerd itself unpacks for the snapshotters of its configuration only
			h.pull(t, ref, append(flags, "--local")...)
		}
		before := h.roots(t)
		h.detach(t, container{image: ref, flags: flags}, "sleep", "1000")
		h.usesSnapshot(t, "root.erofs")
		h.remove(t, "c1")
		if after := h.roots(t); !slices.Equal(before, after) {
			t.Errorf("made in the cache: %v, was %v", after, before)
		}
		h.sameRun(t, ref, flags)
	})
}

func TestPushedDiskRefused(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		ref := startRegistry(t) + "busybox:latest"
		pushDisk(t, ref, busybox)
		h.pull(t, ref)
		got := h.run(t, container{image: ref, flags: []string{"--annotation", "io.containerd.uni.guest=nanos"}}, "sh")
		if got.Code == 0 || !strings.Contains(got.Stderr, `the image is for the guest "linux"`) {
			t.Errorf("another guest: %+v", got)
		}
		h.ctr(t, "container", "rm", "c1")
	})
}

// A disk of the guest nanos names its guest.
func TestPushedDiskNanos(t *testing.T) {
	nanosOnly(t)
	on(t, func(t *testing.T, h *host) {
		kernel := os.Getenv("UNI_NANOS_DIR")
		h.with(t, settings{"nanos.kernel": fmt.Sprintf("%q", kernel)})
		at := startRegistry(t)
		want := h.run(t, container{flags: []string{"--annotation", "io.containerd.uni.guest=nanos"}}, "sh", "-c", "echo out; exit 7")
		for _, format := range []string{"raw", "qcow2"} {
			ref := at + "nanos:" + format
			pushDisk(t, ref, busybox, "--guest", "nanos", "--kernel", kernel, "--format", format)
			h.pull(t, ref)
			before := h.roots(t)
			h.detach(t, container{image: ref}, "sleep", "1000")
			h.usesSnapshot(t, "boot.tfs")
			h.remove(t, "c1")
			if got := h.run(t, container{image: ref}, "sh", "-c", "echo out; exit 7"); got != want || want.Code != 7 {
				t.Errorf("%s: %+v, the image: %+v", format, got, want)
			}
			if after := h.roots(t); !slices.Equal(before, after) {
				t.Errorf("%s: made in the cache: %v, was %v", format, after, before)
			}
		}
		h.with(t, settings{"nanos.kernel": fmt.Sprintf("%q", otherKernel(t, kernel))})
		got := h.run(t, container{image: at + "nanos:raw"}, "sh")
		if got.Code == 0 || !strings.Contains(got.Stderr, "made for the Nanos kernel sha256:") {
			t.Errorf("another kernel: %+v", got)
		}
		h.ctr(t, "container", "rm", "c1")
	})
}

// otherKernel copies a kernel and changes what it would do last.
func otherKernel(t *testing.T, dir string) string {
	t.Helper()
	other := t.TempDir()
	for name, more := range map[string]string{"boot.img": "", "kernel.img": "\x00"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(other, name), append(data, more...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return other
}
