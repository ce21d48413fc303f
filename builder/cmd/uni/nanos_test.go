package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/builder/tree"
)

// fakeKernel makes files that pass for a kernel.
func fakeKernel(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "boot.img"), strings.Repeat("\x00", 510)+"\x55\xaa loader", 0o644)
	write(t, filepath.Join(dir, "kernel.img"), "\x7fELF kernel", 0o644)
	return dir
}

func TestBuildForNanos(t *testing.T) {
	source, kernel, dir := testLayout(t, "amd64"), fakeKernel(t), t.TempDir()
	configured := write(t, filepath.Join(t.TempDir(), "c.toml"), "[nanos]\nkernel = '"+kernel+"'\n", 0o600)
	raw, again, packed := filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img"), filepath.Join(dir, "c.qcow2")
	for _, args := range [][]string{
		{"build", source, "-o", raw, "--guest", "nanos", "--kernel", kernel},
		{"--config", configured, "build", source, "-o", again, "--guest", "nanos"},
		{"build", source, "-o", packed, "--guest", "nanos", "--kernel", kernel, "--format", "qcow2"},
	} {
		out, errs, err := uni(t, args...)
		if err != nil || !strings.Contains(errs, "warning: script: /run is a script") || !strings.Contains(out, " of files, image sha256:") {
			t.Fatalf("%q: %q, %q, %v", args, out, errs, err)
		}
	}
	a, err := os.ReadFile(raw)
	must(t, err)
	b, err := os.ReadFile(again)
	must(t, err)
	if !bytes.Equal(a, b) {
		t.Error("two builds differ")
	}
	for _, disk := range []string{raw, packed} {
		checkNanosDisk(t, disk)
	}
	f, err := os.Open(raw)
	must(t, err)
	defer f.Close()
	m, err := tfs.Open(f, int64(len(a)))
	must(t, err)
	root := m.Root.Root
	args := root.Get("arguments").(*tfs.List).Items()
	env := root.Get("environment").(*tfs.Tuple)
	if root.Get("program") != "/run" || !slices.Equal(args, []any{"/run", "a b"}) || root.Get("cwd") != "/tmp" || env.Get("A") != "1" {
		t.Errorf("program %v, arguments %q, cwd %v, A is %v", root.Get("program"), args, root.Get("cwd"), env.Get("A"))
	}
}

// checkNanosDisk looks at a disk as an operator would.
func checkNanosDisk(t *testing.T, disk string) {
	t.Helper()
	out, _, err := uni(t, "inspect", "-l", "-o", "json", disk)
	var i inspection
	must(t, errors.Join(err, json.Unmarshal([]byte(out), &i)))
	if i.Guest != "nanos" || i.Filesystem != "tfs" || i.Version != 5 || i.Label != "uni-root" || len(i.UUID) != 36 || i.Program != "/run" ||
		!strings.HasPrefix(i.Kernel, "sha256:") || !strings.HasPrefix(i.Boot, "sha256:") || i.Kernel == i.Boot || i.Env[0] != "A=1" {
		t.Errorf("%s: %+v", disk, i)
	}
	// The device is not there.
	if c := i.Counts; c.Files != 2 || c.Directories != 3 || c.Links != 1 || c.Others != 0 || len(i.Files) != 6 {
		t.Errorf("%s: counts %+v, files %+v", disk, c, i.Files)
	}
	out, _, err = uni(t, "inspect", disk)
	for _, want := range []string{"filesystem:   tfs version 5, UUID ", "guest:        nanos", "program:      /run", "kernel:       sha256:"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, no %q in\n%s", disk, err, want, out)
		}
	}
	out, _, err = uni(t, "check-image", "--guest", "nanos", disk)
	if !errors.Is(err, errSilent) || !strings.Contains(out, "FAIL  script") {
		t.Errorf("check-image %s: %q, %v", disk, out, err)
	}
}

func TestBuildForNanosRefuses(t *testing.T) {
	source, kernel, dir := testLayout(t, "amd64"), fakeKernel(t), t.TempDir()
	broken := fakeKernel(t)
	write(t, filepath.Join(broken, "kernel.img"), "no ELF", 0o644)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--guest", "nanos", "--kernel", dir}, "or name the directory that has one with --kernel"},
		{[]string{"--guest", "nanos", "--kernel", broken}, "the kernel is no ELF file"},
		{[]string{"--guest", "nanos", "--kernel", kernel, "--free", "1GB"}, "is not a size"},
		{[]string{"--guest", "linux", "--kernel", kernel}, "is for --guest nanos"},
		{[]string{"--guest", "osv"}, "is not one of: linux, nanos"},
	} {
		_, _, err := uni(t, append([]string{"build", source, "-o", filepath.Join(dir, "disk")}, tt.args...)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %s", tt.args, err, tt.want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestInspectVolume(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "volume"))
	must(t, err)
	defer f.Close()
	root, err := tree.Scan(t.Context(), t.TempDir())
	must(t, err)
	must(t, tfs.Volume{Label: "data", UUID: [16]byte{0xab}, Size: 4 << 20}.Write(t.Context(), f, root))
	out, _, err := uni(t, "inspect", f.Name())
	for _, want := range []string{"UUID ab000000-0000-0000-0000-000000000000", `label "data"`, "1 directories"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v, no %q in\n%s", err, want, out)
		}
	}
}

// What is no disk any more is an error and nothing worse.
func TestInspectDamage(t *testing.T) {
	source, disk := testLayout(t, "amd64"), filepath.Join(t.TempDir(), "disk")
	_, _, err := uni(t, "build", source, "-o", disk, "--guest", "nanos", "--kernel", fakeKernel(t), "--free", "0B")
	must(t, err)
	good, err := os.ReadFile(disk)
	must(t, err)
	for name, change := range map[string]func([]byte) []byte{
		"cut off":     func(b []byte) []byte { return b[:len(b)-4096] },
		"log":         func(b []byte) []byte { clear(b[tfs.RootOffset+4096 : tfs.RootOffset+64<<10]); return b },
		"manifest":    func(b []byte) []byte { b[tfs.LogOffset-4090] ^= 1; return b },
		"kernel":      func(b []byte) []byte { clear(b[1<<20 : 1<<20+512]); return b },
		"only a head": func(b []byte) []byte { return append([]byte("NVMTFS"), make([]byte, 600)...) },
	} {
		must(t, os.WriteFile(disk, change(bytes.Clone(good)), 0o644))
		if _, _, err := uni(t, "inspect", disk); err == nil || errors.Is(err, errSilent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
