package kernels

import (
	"bytes"
	"debug/elf"
	"errors"
	"strings"
	"testing"

	"containerd-shim-uni/builder/kernels/kerneltest"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/elffile"
)

func TestCheckPVH(t *testing.T) {
	nanos := kerneltest.Nanos()
	change := func(f func(*kerneltest.Kernel)) string {
		k := nanos
		f(&k)
		return string(k.Bytes())
	}
	arm := make([]byte, 64)
	copy(arm[56:], "ARM\x64")
	for name, tt := range map[string]struct{ kernel, want string }{
		"nanos":         {string(nanos.Bytes()), ""},
		"bzImage":       {"MZ" + strings.Repeat("x", 100), "no ELF file"},
		"empty":         {"", "no ELF file"},
		"cut":           {string(nanos.Bytes()[:100]), "no ELF file"},
		"arm64 image":   {string(arm), "for arm64"},
		"arm64 ELF":     {change(func(k *kerneltest.Kernel) { k.Machine = elf.EM_AARCH64 }), "EM_AARCH64"},
		"another note":  {change(func(k *kerneltest.Kernel) { k.Note = "GNU\x00" }), "no PVH entry point"},
		"another type":  {change(func(k *kerneltest.Kernel) { k.NoteType = 1 }), "no PVH entry point"},
		"note too long": {change(func(k *kerneltest.Kernel) { k.Note = strings.Repeat("x", 1<<20) }), "no PVH entry point"},
	} {
		err := CheckPVH(strings.NewReader(tt.kernel))
		if tt.want == "" && err == nil {
			continue
		}
		if !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestCommit(t *testing.T) {
	for want, have := range map[string]string{
		kerneltest.Nanos().Commit: kerneltest.Nanos().Commit,
		strings.Repeat("e", 64):   strings.Repeat("e", 64),
		"":                        strings.Repeat("x", 40),
	} {
		k := kerneltest.Nanos()
		k.Commit = have
		image, err := elffile.Open(bytes.NewReader(k.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if got := commit(image); got != want {
			t.Errorf("gitversion %q is read as %q, want %q", have, got, want)
		}
	}
}

func FuzzKernel(f *testing.F) {
	f.Add(kerneltest.Nanos().Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		image, err := openPVH(bytes.NewReader(data))
		if err != nil {
			return
		}
		if c := commit(image); c != "" && (!isHex(c) || !bytes.Contains(data, []byte(c))) {
			t.Errorf("commit %q", c)
		}
	})
}

func TestLinuxVersion(t *testing.T) {
	const banner = "Linux version 6.12.117-uni (gcc) #1"
	pad := func(n int) string { return strings.Repeat("x", n) }
	for name, tt := range map[string]struct{ in, want string }{
		"none":               {pad(3 << 20), ""},
		"empty":              {"", ""},
		"at the start":       {banner, "6.12.117-uni"},
		"across a boundary":  {pad(1<<20-20) + banner + pad(99), "6.12.117-uni"},
		"at a boundary":      {pad(1<<20-128) + banner, "6.12.117-uni"},
		"at the end":         {pad(5<<20) + banner, "6.12.117-uni"},
		"behind a format":    {"Linux version %s (%s)\x00" + banner, "6.12.117-uni"},
		"cut off":            {"Linux version 6.1", ""},
		"two over boundary ": {pad(1<<20-30) + "Linux version %s " + banner, "6.12.117-uni"},
	} {
		if got, err := LinuxVersion(strings.NewReader(tt.in)); got != tt.want || err != nil {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
		}
	}
}
