package kernels

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// optionsText is a kernel's options that has all needs, but for those that are given
// another value here.
func optionsText(changed map[string]string) string {
	var b strings.Builder
	b.WriteString("#\n# Automatically generated file; DO NOT EDIT.\n#\nCONFIG_LOCALVERSION=\"-x=y\"\n")
	for _, n := range needs {
		value, ok := changed[n.option]
		if !ok {
			value = "y"
		}
		if value == "" {
			b.WriteString("# CONFIG_" + n.option + " is not set\n")
		} else {
			b.WriteString("CONFIG_" + n.option + "=" + value + "\n")
		}
	}
	return b.String()
}

// inKernel is a kernel's file with compressed options in it, which span the parts that
// are scanned.
func inKernel(t *testing.T, options string) []byte {
	t.Helper()
	var b bytes.Buffer
	b.Write(bytes.Repeat([]byte{0x90}, 1<<20-5))
	b.WriteString("IKCFG_ST")
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(options)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	b.WriteString("IKCFG_ED and more")
	return b.Bytes()
}

func namesOf(lacks []Lack) []string {
	var list []string
	for _, l := range lacks {
		list = append(list, l.Option)
	}
	return list
}

func TestCheckLinux(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	changed := optionsText(map[string]string{"EROFS_FS": "m", "VIRTIO_MMIO": "", "VIRTIO_PCI": "", "SCSI_VIRTIO": ""})
	inside := put("inside/vmlinux", inKernel(t, changed))
	put("inside/kernel.config", []byte(optionsText(nil))) // another kernel's: what it says itself is true
	put("boot/config-6.1", []byte(changed))
	put("boot/kernel.config", []byte(optionsText(nil)))
	for _, path := range []string{inside, put("boot/vmlinux-6.1", []byte("kernel"))} {
		for machine, virtio := range map[string]string{"microvm": "CONFIG_VIRTIO_MMIO", "q35": "CONFIG_VIRTIO_PCI"} {
			lacks, source, err := CheckLinux(path, machine)
			if want := []string{"CONFIG_EROFS_FS", virtio, "CONFIG_SCSI_VIRTIO"}; err != nil || !slices.Equal(namesOf(lacks), want) {
				t.Errorf("%s on %s lacks %v (%v), want %v", path, machine, lacks, err, want)
				continue
			}
			if !lacks[0].Module || lacks[1].Module || lacks[0].Without != "" || lacks[2].Without != "pods" {
				t.Errorf("%s: %+v", path, lacks)
			}
			if strings.HasSuffix(source, "kernel.config") {
				t.Errorf("%s was judged by %s", path, source)
			}
		}
	}
	lacks, source, err := CheckLinux(put("none/vmlinux", []byte("no options")), "microvm")
	if err != nil || !strings.HasPrefix(source, "texts") || !slices.Contains(namesOf(lacks), "CONFIG_EROFS_FS") || slices.Contains(namesOf(lacks), "CONFIG_PROC_FS") {
		t.Errorf("by texts: %v, %q, %v", lacks, source, err)
	}
	var texts strings.Builder
	for _, n := range needs {
		texts.WriteString(n.mark + "\x00")
	}
	if lacks, _, err := CheckLinux(put("all/vmlinux", []byte(texts.String())), "microvm"); err != nil || len(lacks) > 0 {
		t.Errorf("a kernel with all texts lacks %v, %v", lacks, err)
	}
	for name, data := range map[string][]byte{
		"huge": inKernel(t, optionsText(nil)+strings.Repeat("# and so on\n", maxOptions)), "damaged": []byte("IKCFG_ST\x1f\x8bxxxxxxxxxxxxxx"),
	} {
		if _, _, err := CheckLinux(put(name+"/vmlinux", data), "microvm"); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("%s options: %v", name, err)
		}
	}
}

// TestOurKernelByTexts: the kernel that make guest builds has what is looked for, also
// where only its texts tell.
func TestOurKernelByTexts(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("needs the kernel of make guest; set UNI_QEMU_TESTS=1")
	}
	dir := os.Getenv("UNI_GUEST_DIR")
	if dir == "" {
		dir = "../../out/guest"
	}
	built, err := filepath.Abs(filepath.Join(dir, "vmlinux"))
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.Symlink(built, alone); err != nil {
		t.Fatal(err)
	}
	for _, machine := range []string{"microvm", "q35"} {
		lacks, source, err := CheckLinux(alone, machine)
		if err != nil || !strings.HasPrefix(source, "texts") || len(lacks) > 0 {
			t.Errorf("%s: %+v by %s, %v", machine, lacks, source, err)
		}
	}
}

// TestDocumented: people read there what a kernel must have.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/guest-kernel.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range LinuxOptions() {
		if !bytes.Contains(text, []byte("`"+option+"`")) {
			t.Errorf("%s is looked for, and docs/guest-kernel.md does not say so", option)
		}
	}
}
