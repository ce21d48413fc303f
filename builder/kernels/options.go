package kernels

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"containerd-shim-uni/unikernel"
)

// Lack is something that a kernel of the linux guest has not.
type Lack struct {
	// Option is how it is called where the kernel is configured.
	Option string
	// Module says that it is there, in a module that the guest does not load.
	Module bool
	// Without is what does not work; empty if nothing does.
	Without string
}

// need is one thing that the linux guest's PID 1 or its machine asks of a kernel.
type need struct {
	option  string
	mark    string // a text that a kernel with it has in its file; empty for none
	machine string // the only type of machine that asks, microvm or pci; empty for all
	without string // as Lack's
}

// needs is what a kernel of the user's own must have; docs/guest-kernel.md says the
// same to people. The marks are names of drivers and file systems.
var needs = []need{
	{option: "BLK_DEV_INITRD", mark: "Initramfs unpacking failed"},
	{option: "BINFMT_ELF"},
	{option: "DEVTMPFS", mark: "devtmpfs"},
	{option: "PROC_FS"},
	{option: "SYSFS"},
	{option: "TMPFS"},
	{option: "EROFS_FS", mark: "erofs"},
	{option: "EXT4_FS", mark: "EXT4-fs"},
	{option: "OVERLAY_FS", mark: "overlayfs"},
	{option: "PID_NS"},
	{option: "CGROUPS", mark: "cgroup2"},
	{option: "CGROUP_DEVICE"},
	{option: "UNIX98_PTYS", mark: "devpts"},
	{option: "INET"},
	{option: "VIRTIO_BLK", mark: "virtio_blk"},
	{option: "VIRTIO_CONSOLE", mark: "virtio_console"},
	{option: "VIRTIO_MMIO", mark: "virtio-mmio", machine: "microvm"},
	{option: "VIRTIO_MMIO_CMDLINE_DEVICES", mark: "virtio-mmio-cmdline", machine: "microvm"},
	{option: "VIRTIO_PCI", mark: "virtio-pci", machine: "pci"},
	{option: "VIRTIO_NET", mark: "virtio_net", without: "networks"},
	{option: "IPV6", without: "addresses of IPv6"},
	{option: "VIRTIO_FS", mark: "virtiofs", without: "bind mounts that are shared with the host"},
	{option: "SCSI_VIRTIO", mark: "virtio_scsi", without: "pods"},
	{option: "BLK_DEV_SD", without: "pods"},
	{option: "MEMCG", without: "limits and counters of memory"},
	{option: "CFS_BANDWIDTH", without: "limits of CPU in pods"},
	{option: "CGROUP_PIDS", without: "limits of processes"},
	{option: "SECCOMP_FILTER", without: "seccomp profiles"},
	{option: "HW_RANDOM_VIRTIO", mark: "virtio_rng", without: "random numbers early: programs may wait for seconds"},
	{option: "VIRTIO_BALLOON", mark: "virtio_balloon", without: "giving the host back what a container frees"},
	{option: "SERIAL_8250_CONSOLE", without: "the reason when the guest dies"},
	{option: "EROFS_FS_XATTR", without: "file capabilities and extended attributes of images"},
	{option: "POSIX_MQUEUE", mark: "mqueue", without: "the mount of /dev/mqueue that containerd asks for: containers do not start"},
}

// LinuxOptions lists the options that CheckLinux looks for, as they are called where a
// kernel is configured.
func LinuxOptions() []string {
	var list []string
	for _, n := range needs {
		list = append(list, "CONFIG_"+n.option)
	}
	return list
}

// CheckLinux says what a kernel lacks for the linux guest on a machine type. It judges
// by the options of its build, which it finds in the kernel (CONFIG_IKCONFIG) or beside
// it, else by texts that the kernel has; source says by what. The kernel itself may
// have any size, its options 1 MiB.
func CheckLinux(path, machine string) (lacks []Lack, source string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	options, source, err := linuxOptions(f, path)
	if err != nil {
		return nil, "", err
	}
	var marked map[string]bool
	if options == nil {
		source = "texts in the kernel, which has its options neither inside (CONFIG_IKCONFIG_PROC) nor beside it (kernel.config)"
		if marked, err = findMarks(f); err != nil {
			return nil, "", err
		}
	}
	for _, n := range needs {
		if n.machine != "" && (n.machine == "microvm") != (machine == "microvm") {
			continue
		}
		value := options[n.option]
		has := value == "y"
		if options == nil {
			has = n.mark == "" || marked[n.mark]
		}
		if !has {
			lacks = append(lacks, Lack{Option: "CONFIG_" + n.option, Module: value == "m", Without: n.without})
		}
	}
	return lacks, source, nil
}

// maxOptions is how many bytes the text of a kernel's options may have: those of a
// distribution have 300 KiB.
const maxOptions = 1 << 20

// linuxOptions finds the options of a kernel's build; nil if there are none.
func linuxOptions(kernel io.ReadSeeker, path string) (options map[string]string, source string, err error) {
	inside, err := openIKConfig(kernel)
	if err != nil {
		return nil, "", err
	}
	if inside != nil {
		options, err = parseOptions(inside)
		return options, "its own list of options", err
	}
	dir, name := filepath.Split(path)
	beside := []string{path + ".config", dir + "kernel.config", dir + ".config"}
	if _, version, ok := strings.Cut(name, "-"); ok { // vmlinux-6.1.0 and config-6.1.0, as in /boot
		beside = append([]string{dir + "config-" + version}, beside...)
	}
	for _, file := range beside {
		f, err := os.Open(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		options, err := parseOptions(f)
		return options, file, err
	}
	return nil, "", nil
}

// parseOptions reads lines like CONFIG_X=y.
func parseOptions(r io.Reader) (map[string]string, error) {
	options := map[string]string{}
	limited := &io.LimitedReader{R: r, N: maxOptions + 1}
	lines := bufio.NewScanner(limited)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			options[strings.TrimPrefix(name, "CONFIG_")] = value
		}
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("%w: its options have more than %d bytes", unikernel.ErrInvalid, maxOptions)
	}
	return options, lines.Err()
}

// ikconfig starts the compressed options in a kernel: kernel/configs.c puts this text
// before them, gzip its magic number.
var ikconfig = []byte("IKCFG_ST\x1f\x8b")

// openIKConfig returns the text of the options in a kernel, or nil.
func openIKConfig(kernel io.ReadSeeker) (io.Reader, error) {
	at, err := find(kernel, ikconfig)
	if err != nil || at < 0 {
		return nil, err
	}
	if _, err := kernel.Seek(at+int64(len("IKCFG_ST")), io.SeekStart); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bufio.NewReader(kernel))
	if err != nil {
		return nil, fmt.Errorf("its options: %w: %w", unikernel.ErrInvalid, err)
	}
	z.Multistream(false) // the rest of the kernel follows
	return z, nil
}

// findMarks says which marks of needs a kernel has.
func findMarks(kernel io.ReadSeeker) (map[string]bool, error) {
	found := map[string]bool{}
	err := scan(kernel, func(_ int64, part []byte) bool {
		for _, n := range needs {
			if n.mark != "" && !found[n.mark] && bytes.Contains(part, []byte(n.mark)) {
				found[n.mark] = true
			}
		}
		return true
	})
	return found, err
}

// find returns where a text is in a file; -1 if it is not.
func find(file io.ReadSeeker, text []byte) (int64, error) {
	at := int64(-1)
	err := scan(file, func(offset int64, part []byte) bool {
		if i := bytes.Index(part, text); i >= 0 {
			at = offset + int64(i)
		}
		return at < 0
	})
	return at, err
}

// overlap is more than the longest text that is looked for has.
const overlap = 64

// scan calls f with all of a file, in parts that begin with the end of the one before,
// until it says no.
func scan(file io.ReadSeeker, f func(offset int64, part []byte) bool) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	kept, offset := 0, int64(0)
	for {
		n, err := io.ReadFull(file, buf[kept:])
		part := buf[:kept+n]
		if n > 0 && !f(offset, part) {
			return nil
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
		kept = copy(buf, part[len(part)-overlap:])
		offset += int64(len(part) - kept)
	}
}
