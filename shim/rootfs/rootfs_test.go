package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types"
)

// snapshots makes n layers and an own one, as containerd's overlay snapshotter.
func snapshots(t *testing.T, root string, n int) (lowers []string, upper string) {
	t.Helper()
	for i := range n + 1 {
		dir := filepath.Join(root, "snapshots", string(rune('1'+i)), "fs")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		lowers = append([]string{dir}, lowers...)
	}
	return lowers[1:], lowers[0]
}

func overlay(lowers []string, upper string, more ...string) []*types.Mount {
	lower := ""
	for i, dir := range lowers {
		if i > 0 {
			lower += ":"
		}
		lower += dir
	}
	options := append([]string{"index=off", "workdir=/w"}, more...)
	if upper != "" {
		options = append(options, "upperdir="+upper)
	}
	return []*types.Mount{{Type: "overlay", Source: "overlay", Options: append(options, "lowerdir="+lower)}}
}

func keyOf(t *testing.T, mounts []*types.Mount) string {
	t.Helper()
	fs, err := New(mounts, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return fs.Key
}

func TestKey(t *testing.T) {
	root := t.TempDir()
	lowers, upper := snapshots(t, root, 2)
	first := keyOf(t, overlay(lowers, upper))
	if first == "" {
		t.Fatal("an image's snapshot has no key")
	}
	if again := keyOf(t, overlay(lowers, upper)); again != first {
		t.Error("the same layers have another key")
	}
	if view := keyOf(t, overlay(lowers, "")); view != first {
		t.Error("a view of the same layers has another key")
	}
	if other := keyOf(t, overlay(lowers[1:], upper)); other == first || other == "" {
		t.Errorf("other layers have key %q", other)
	}
	if reversed := keyOf(t, overlay([]string{lowers[1], lowers[0]}, upper)); reversed == first {
		t.Error("the order of layers is not in the key")
	}
	single := keyOf(t, overlay(lowers[1:], ""))
	bind := keyOf(t, []*types.Mount{{Type: "bind", Source: lowers[1], Options: []string{"ro", "rbind"}}})
	if bind != single {
		t.Error("a bind mount of one layer has another key than the layer")
	}

	// A root that is made anew gives the same names to other layers.
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	lowers, upper = snapshots(t, root, 2)
	if anew := keyOf(t, overlay(lowers, upper)); anew == first {
		t.Error("layers that were made anew have the old key")
	}
}

func TestNoKey(t *testing.T) {
	root := t.TempDir()
	lowers, upper := snapshots(t, root, 2)
	for name, mounts := range map[string][]*types.Mount{
		"writable bind":          {{Type: "bind", Source: lowers[0], Options: []string{"rw", "rbind"}}},
		"bind of a copy":         {{Type: "bind", Source: root, Options: []string{"ro", "rbind"}}},
		"another file system":    {{Type: "ext4", Source: "/dev/x"}},
		"two mounts":             append(overlay(lowers, upper), &types.Mount{Type: "bind", Source: root}),
		"part of a file system":  {{Type: "overlay", Target: "/x", Options: overlay(lowers, upper)[0].Options}},
		"mapped owners":          overlay(lowers, upper, "uidmap=0:1:2"),
		"escaped names":          overlay([]string{lowers[0] + `\:x`}, upper),
		"relative names":         overlay([]string{"1/fs"}, upper),
		"data-only layers":       overlay([]string{lowers[0] + ":", lowers[1]}, upper),
		"overlay without layers": {{Type: "overlay"}},
	} {
		if key := keyOf(t, mounts); key != "" {
			t.Errorf("%s: key %s", name, key)
		}
	}
	if err := os.WriteFile(filepath.Join(upper, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if key := keyOf(t, overlay(lowers, upper)); key != "" {
		t.Errorf("own layer with a file: key %s", key)
	}
}

func TestMissingLayer(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent/fs")
	for _, mounts := range [][]*types.Mount{overlay([]string{absent}, ""), overlay(nil, absent)} {
		if _, err := New(mounts, t.TempDir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	}
}

func TestMountedByTheClient(t *testing.T) {
	dir := t.TempDir()
	fs, err := New(nil, dir)
	if err != nil || fs.Key != "" {
		t.Fatalf("key %q, %v", fs.Key, err)
	}
	got, done, err := fs.Open(t.Context())
	if err != nil || got != dir || done() != nil {
		t.Errorf("open: %s, %v", got, err)
	}
	if _, err := New(nil, filepath.Join(dir, "nonexistent")); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("nothing there: %v", err)
	}
}

func TestUnmountNothing(t *testing.T) {
	if err := Unmount(filepath.Join(t.TempDir(), "nonexistent")); err != nil {
		t.Error(err)
	}
}

func TestPath(t *testing.T) {
	for root, want := range map[string]string{"": "/b/rootfs", "x": "/b/x", "/abs": "/abs"} {
		if got := Path("/b", root); got != want {
			t.Errorf("%q: %s", root, got)
		}
	}
}
