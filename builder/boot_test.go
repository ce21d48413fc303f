package builder

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"
)

// fakeKernel makes files that pass for a boot image and a kernel.
func fakeKernel(t testing.TB) unikernel.BootDisk {
	t.Helper()
	dir := t.TempDir()
	d := unikernel.BootDisk{Boot: filepath.Join(dir, "boot.img"), Kernel: filepath.Join(dir, "kernel.img")}
	writeFile(t, d.Boot, append(make([]byte, 510), 0x55, 0xaa))
	writeFile(t, d.Kernel, []byte("\x7fELF kernel"))
	return d
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// elfProgram is the header of a static program for x86-64, with nothing behind
// it.
var elfProgram = elfHeader(elf.EM_X86_64)

func elfHeader(machine elf.Machine) string {
	b := make([]byte, 64)
	copy(b, elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}))
	b[16], b[18], b[20] = byte(elf.ET_EXEC), byte(machine), 1
	return string(b)
}

// bootStore has a container's directory with a boot disk in it.
func bootStore(t *testing.T) (s *Store, base, layer string) {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(dir, Options{MaxSize: 1 << 30, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	for name, data := range map[string]string{"bin/x": elfProgram, "bin/s": "#!/bin/x", "bin/t": "text", "bin/e": "", "bin/arm": elfHeader(elf.EM_AARCH64), "bin/sh": elfProgram, "etc/hosts": "old"} {
		writeFile(t, filepath.Join(files, name), []byte(data))
	}
	base = filepath.Join(dir, "containers", "c", "boot.tfs")
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.BootDisk(t.Context(), rootAt(files), fakeKernel(t), base); err != nil {
		t.Fatal(err)
	}
	return s, base, filepath.Join(filepath.Dir(base), "boot.qcow2")
}

func rootAt(dir string) unikernel.Rootfs {
	return unikernel.Rootfs{Key: dir, Open: func(context.Context) (string, func() error, error) {
		return dir, func() error { return nil }, nil
	}}
}

func TestBootDiskIsShared(t *testing.T) {
	s, base, _ := bootStore(t)
	entries, err := s.Entries()
	if err != nil || len(entries) != 1 || entries[0].Kind != "disk" || entries[0].Users != 1 {
		t.Fatalf("%+v, %v", entries, err)
	}
	files := t.TempDir()
	kernel := fakeKernel(t)
	for i, change := range []string{"", "", "another kernel"} {
		writeFile(t, kernel.Kernel, []byte("\x7fELF"+change))
		dst := filepath.Join(filepath.Dir(base), string(rune('a'+i)))
		if err := s.BootDisk(t.Context(), rootAt(files), kernel, dst); err != nil {
			t.Fatal(err)
		}
	}
	if entries, _ = s.Entries(); len(entries) != 3 {
		t.Errorf("%d disks of two trees, one with two kernels", len(entries))
	}
}

func TestBootDiskRefuses(t *testing.T) {
	s, base, _ := bootStore(t)
	dst := filepath.Join(filepath.Dir(base), "d")
	d := fakeKernel(t)
	if err := s.BootDisk(t.Context(), rootAt(t.TempDir()), unikernel.BootDisk{Boot: d.Boot, Kernel: filepath.Join(t.TempDir(), "absent")}, dst); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("no kernel: %v", err)
	}
	writeFile(t, d.Kernel, []byte("no ELF"))
	if err := s.BootDisk(t.Context(), rootAt(t.TempDir()), d, dst); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("no ELF: %v", err)
	}
	if _, err := os.Stat(dst); err == nil {
		t.Error("a disk was left")
	}
}

func rawDisk(path string) unikernel.Disk { return unikernel.Disk{Path: path, Format: "raw"} }

func TestConfigure(t *testing.T) {
	s, base, layer := bootStore(t)
	before, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	writeFile(t, hosts, []byte("new"))
	c := unikernel.BootConfig{Args: []string{"x", "1"}, Env: []string{"PATH=/sbin:/bin", "A=b=c", "odd"}, Cwd: "/",
		Options: []unikernel.Option{{Name: "en1.mtu", Value: "1500"}, {Name: "o", Value: "t"}, {Name: "en1.ipaddr", Value: "10.0.0.1"}},
		Files:   []unikernel.BootFile{{Path: "/etc/hosts", Source: hosts}}}
	if _, err := s.Configure(t.Context(), rawDisk(base), layer, 1<<30, c); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(base); !bytes.Equal(before, after) {
		t.Error("the shared disk has changed")
	}
	record, err := s.Record(layer)
	if err != nil || !bytes.Equal(record, make([]byte, tfs.LogSize)) {
		t.Errorf("record: %v", err)
	}
	if _, err := s.Configure(t.Context(), rawDisk(base), layer, 1<<30, c); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := s.Record(base); err == nil {
		t.Error("a disk that is no layer has a record")
	}
}

func TestConfigureRefuses(t *testing.T) {
	s, base, layer := bootStore(t)
	big := filepath.Join(t.TempDir(), "big")
	writeFile(t, big, make([]byte, unikernel.MaxBootFiles+1))
	for name, tt := range map[string]struct {
		arg  string
		file string
		want error
	}{
		"missing":           {"/bin/no", "", unikernel.ErrNotFound},
		"missing in $PATH":  {"no", "", unikernel.ErrNotFound},
		"script":            {"/bin/s", "", unikernel.ErrNotImplemented},
		"text":              {"t", "", unikernel.ErrInvalid},
		"empty":             {"bin/e", "", unikernel.ErrInvalid},
		"another machine":   {"arm", "", unikernel.ErrInvalid},
		"shell":             {"sh -c x", "", unikernel.ErrNotImplemented},
		"directory":         {"/bin", "", unikernel.ErrInvalid},
		"directory mounted": {"x", filepath.Dir(big), unikernel.ErrNotImplemented},
		"large file":        {"x", big, unikernel.ErrNotImplemented},
		"no file":           {"x", filepath.Join(t.TempDir(), "absent"), unikernel.ErrInvalid},
	} {
		c := unikernel.BootConfig{Args: strings.Split(tt.arg, " "), Cwd: "/"}
		if tt.file != "" {
			c.Files = []unikernel.BootFile{{Path: "/etc/f", Source: tt.file}}
		}
		if _, err := s.Configure(t.Context(), rawDisk(base), layer, 1<<30, c); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if _, err := os.Stat(layer); err == nil {
			t.Errorf("%s: a layer was left", name)
		}
	}
}
