package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"containerd-shim-uni/unikernel"
)

// machine measures one running machine's memory, and the same machine without
// libvirt, containerd and shim.
func (b *bench) machine(ctx context.Context, runs int, ours time.Duration, t *table) error {
	const id = "machine"
	r := b.Ctr(ctx, nil, "run", "-d", "--runtime", uni, python, id, "python3", "-c", "import time; time.sleep(1000)")
	if r.Code != 0 {
		return fmt.Errorf("start a container to look at: %s", r.Stderr)
	}
	defer b.RemoveAll(ctx)
	var shim, qemu int
	for _, pid := range b.Processes() {
		switch args := cmdline(pid); {
		case strings.HasSuffix(args[0], "containerd-shim-uni-v1"):
			shim = pid
		case strings.Contains(args[0], "qemu-system"):
			qemu = pid
		}
	}
	if shim == 0 || qemu == 0 {
		return errors.New("the container has no shim or no QEMU")
	}
	shimMemory, _, err := pss(shim, 0)
	if err != nil {
		return err
	}
	args := cmdline(qemu)
	ram, err := strconv.ParseInt(strings.TrimSuffix(valueOf(args, "-m"), "M"), 10, 64)
	if err != nil {
		return fmt.Errorf("QEMU's -m: %w", err)
	}
	qemuMemory, guest, err := pss(qemu, ram<<20)
	if err != nil {
		return err
	}
	t.head(fmt.Sprintf("memory on the host of one machine with %d MiB (PSS)", ram))
	t.line("shim", "%6.1f MiB", mib(shimMemory))
	t.line("QEMU beyond the guest's RAM", "%6.1f MiB", mib(qemuMemory))
	t.line("guest RAM in use", "%6.1f MiB", mib(guest))

	bare, err := b.bareBoots(ctx, args, unikernel.Key(b.Namespace, id), runs)
	if err != nil {
		return err
	}
	t.head(fmt.Sprintf("the same kernel and disk in a bare QEMU (median of %d, lowest)", runs))
	t.ms("exec of QEMU to the guest's first word", bare)
	t.line("ours: ctr run --rm minus that", "%7.0f ms", millis(ours-median(bare)))
	return nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// cmdline is never empty.
func cmdline(pid int) []string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty when the process is gone
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

func valueOf(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		value, _, _ := strings.Cut(args[i+1], ",")
		if flag == "-m" {
			value = strings.TrimPrefix(value, "size=")
			value = strings.TrimSuffix(value, "k")
		}
		return value
	}
	return ""
}

// pss sums the proportional set size of a process in bytes: of its mappings of
// exactly ram bytes, which are the guest's memory, and of all others.
func pss(pid int, ram int64) (others, guest int64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var size int64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "Size:" && fields[0] != "Pss:" {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("smaps of %d: %w", pid, err)
		}
		switch n *= 1024; {
		case fields[0] == "Size:":
			size = n
		case ram > 0 && size == ram:
			guest += n
		default:
			others += n
		}
	}
	return others, guest, lines.Err()
}

// bareBoots starts QEMU by hand with the machine, kernel, command line and root
// disk of a running one, and measures until the guest says its first word on
// the control channel.
func (b *bench) bareBoots(ctx context.Context, args []string, key string, runs int) ([]time.Duration, error) {
	root := filepath.Join(b.data, "containers", key, "root.erofs")
	whole := func(flag string) string { return args[slices.Index(args, flag)+1] }
	machine := strings.ReplaceAll(whole("-machine"), ",memory-backend=microvm.ram", "")
	socket := filepath.Join(b.Dir, "bare.sock")
	command := []string{
		"-machine", machine, "-accel", whole("-accel"), "-cpu", whole("-cpu"), "-m", valueOf(args, "-m"),
		"-kernel", whole("-kernel"), "-initrd", whole("-initrd"), "-append", whole("-append"),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "null,id=console", "-device", "isa-serial,chardev=console",
		"-global", "virtio-mmio.force-legacy=false",
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + root,
		"-device", "virtio-blk-device,drive=root,serial=root",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng",
		"-chardev", "socket,id=ctl,path=" + socket, "-device", "virtio-serial-device",
		"-device", "virtserialport,chardev=ctl,name=uni.ctl",
	}
	var took []time.Duration
	for range runs {
		d, err := bareBoot(ctx, socket, command)
		if err != nil {
			return nil, fmt.Errorf("bare boot: %w", err)
		}
		took = append(took, d)
	}
	return took, nil
}

func bareBoot(ctx context.Context, socket string, command []string) (time.Duration, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", command...)
	cmd.Stderr = os.Stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill() // it waits for a configuration until then
		_ = cmd.Wait()
	}()
	if err := l.(*net.UnixListener).SetDeadline(begin.Add(time.Minute)); err != nil {
		return 0, err
	}
	conn, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(begin.Add(time.Minute)); err != nil {
		return 0, err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}
