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

// rest is how long a container has run when its memory is measured: the shim
// gives back what starting took once it is idle.
const rest = 3 * time.Second

// machine measures the memory of a running machine, and returns the same
// machine without libvirt, containerd and shim.
func (b *bench) machine(ctx context.Context, t *table) (bareMachine, error) {
	const id = "machine"
	r := b.Ctr(ctx, nil, "run", "-d", "--runtime", uni, python, id, "python3", "-c", "import time; time.sleep(1000)")
	if r.Code != 0 {
		return bareMachine{}, fmt.Errorf("start a container to look at: %s", r.Stderr)
	}
	defer b.RemoveAll(ctx)
	time.Sleep(rest)
	shim, qemu := b.find("containerd-shim-uni-v1"), b.find("qemu-system-x86_64")
	if shim == 0 || qemu == 0 {
		return bareMachine{}, errors.New("the container has no shim or no QEMU")
	}
	args := cmdline(qemu)
	ram, err := strconv.ParseInt(option(args, "-m"), 10, 64)
	if err != nil {
		return bareMachine{}, fmt.Errorf("QEMU's -m in MiB: %w", err)
	}
	shimMemory, _, err := pss(shim, 0)
	if err != nil {
		return bareMachine{}, err
	}
	qemuMemory, guest, err := pss(qemu, ram<<20)
	if err != nil {
		return bareMachine{}, err
	}
	t.head(fmt.Sprintf("memory on the host of one machine with %d MiB, Python sleeping, %s after its start (PSS)", ram, rest))
	t.line("shim", "%7.1f MiB", mib(shimMemory))
	t.line("QEMU beyond the guest's RAM", "%7.1f MiB", mib(qemuMemory))
	t.line("guest's RAM in use", "%7.1f MiB", mib(guest))
	return b.bare(args, unikernel.Key(b.Namespace, id))
}

// find returns a process of this containerd that runs a program, or 0.
func (b *bench) find(program string) int {
	for _, pid := range b.Processes() {
		if filepath.Base(cmdline(pid)[0]) == program {
			return pid
		}
	}
	return 0
}

// option returns the argument after a flag of QEMU's.
func option(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// cmdline is never empty.
func cmdline(pid int) []string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty when the process is gone
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
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

// bareMachine is a QEMU that is started by hand.
type bareMachine struct {
	socket string // where the guest's control channel ends
	args   []string
}

// bare takes over kernel, command line, processor and root disk of a running
// machine; the disk stays when the container is gone.
func (b *bench) bare(args []string, key string) (bareMachine, error) {
	root := filepath.Join(b.Dir, "bare.erofs")
	if err := os.Link(filepath.Join(b.data, "containers", key, "root.erofs"), root); err != nil {
		return bareMachine{}, err
	}
	// The memory object it refers to is QEMU's own default.
	machine := strings.ReplaceAll(option(args, "-machine"), ",memory-backend=microvm.ram", "")
	socket := filepath.Join(b.Dir, "bare.sock")
	return bareMachine{socket, []string{
		"-machine", machine, "-accel", option(args, "-accel"), "-cpu", option(args, "-cpu"), "-m", option(args, "-m"),
		"-bios", option(args, "-bios"), "-kernel", option(args, "-kernel"), "-initrd", option(args, "-initrd"), "-append", option(args, "-append"),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "null,id=console", "-device", "isa-serial,chardev=console",
		"-global", "virtio-mmio.force-legacy=false",
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + root,
		"-device", "virtio-blk-device,drive=root,serial=root",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng",
		"-chardev", "socket,id=ctl,path=" + socket, "-device", "virtio-serial-device",
		"-device", "virtserialport,chardev=ctl,name=uni.ctl",
	}}, nil
}

// boot measures from the start of QEMU until the guest says its first word on
// the control channel.
func (m bareMachine) boot(ctx context.Context) (time.Duration, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: m.socket})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.args...)
	cmd.Stderr = os.Stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill() // it waits for a configuration until then
		_ = cmd.Wait()
	}()
	if err := l.SetDeadline(begin.Add(time.Minute)); err != nil {
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
