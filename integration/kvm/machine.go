package kvm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed init.sh
var initScript string

// bootTimeout bounds L1's boot: 11 s on two quiet cores.
const bootTimeout = 5 * time.Minute

// poll is how often the host looks at the shared directory.
const poll = 100 * time.Millisecond

// Options say how L1 is made; MemoryMiB and CPUs are its size.
type Options struct {
	Root    Root
	Payload string // a disk, as Payload.New makes it
	// Dir is a directory for the share, the console's log and what
	// is written to the disks.
	Dir             string
	MemoryMiB, CPUs int
	// InvariantTSC makes the processor claim an invariant TSC, as most hosts'
	// processors do: a guest whose document says no more sees it too, and
	// cannot be saved. One CPU then, and slower.
	InvariantTSC bool
}

// Machine is a running L1.
type Machine struct {
	dir     string
	console string
	cmd     *exec.Cmd
	done    chan struct{} // closed when QEMU ended
	n       int           // of the last command
}

// Start boots L1 and returns when it runs commands. Stop must be called.
func Start(ctx context.Context, o Options) (*Machine, error) {
	m := &Machine{dir: o.Dir, console: o.Console(), done: make(chan struct{})}
	if err := os.MkdirAll(m.share(""), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.share("init.sh"), []byte(initScript), 0o644); err != nil {
		return nil, err
	}
	m.cmd = exec.Command("qemu-system-x86_64", o.args(m.share(""), m.console)...)
	m.cmd.Env = append(os.Environ(), "TMPDIR="+o.Dir) // of what is written with snapshot=on
	// It does not outlive this process, whatever ends that.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	log, err := os.Create(filepath.Join(o.Dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a machine with KVM: %w", err)
	}
	go func() {
		_ = m.cmd.Wait() // how it ended is in cmd.ProcessState
		close(m.done)
	}()
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if _, err := m.Run(ctx, "true", io.Discard); err != nil {
		m.Stop()
		return nil, fmt.Errorf("boot a machine with KVM: %w", err)
	}
	return m, nil
}

// processor is one of AMD's, because only their virtualization is emulated,
// without what QEMU 7.2 does not emulate of it.
const processor = "EPYC,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,-xsavec"

// args are QEMU's.
func (o Options) args(share, console string) []string {
	line := "root=/dev/vda rw console=ttyS0 init=/sbin/kvm-init net.ifnames=0 mitigations=off panic=-1 no_timer_check quiet"
	cpu, accel := processor, []string{"-accel", "tcg,thread=multi,tb-size=512"}
	if o.InvariantTSC {
		// Forced, as emulation does not offer it. Time is then what was executed,
		// 4 ns an instruction, so that the TSC, which counts nanoseconds, is as
		// invariant as it claims however busy the host is.
		cpu += ",+invtsc,x-force-features=on"
		accel = []string{"-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=2"}
		line += " tsc=reliable tsc_early_khz=1000000"
	}
	return append(accel,
		"-machine", "q35", "-cpu", cpu,
		"-smp", strconv.Itoa(o.CPUs), "-m", strconv.Itoa(o.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:"+console,
		"-kernel", o.Root.Kernel, "-initrd", o.Root.Initrd, "-append", line,
		"-drive", "if=virtio,format=raw,snapshot=on,cache=unsafe,file="+o.Root.Disk,
		"-drive", "if=virtio,format=raw,snapshot=on,cache=unsafe,file="+o.Payload,
		"-virtfs", "local,mount_tag=share,security_model=none,path="+share,
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
	)
}

// Console is the path of the file with what L1's kernel said, also of an L1 that did not start.
func (o Options) Console() string { return filepath.Join(o.Dir, "console.log") }

func (m *Machine) share(name string) string { return filepath.Join(m.dir, "share", name) }

// Run runs a bash script in L1 and copies what it prints to out as it comes.
// The error is of the machine or the context; a script that fails has a status.
// After an error of the context the machine is of no further use.
func (m *Machine) Run(ctx context.Context, script string, out io.Writer) (status int, err error) {
	m.n++
	n := strconv.Itoa(m.n)
	if err := os.WriteFile(m.share("cmd.new"), []byte(script), 0o644); err != nil {
		return 0, err
	}
	if err := os.Rename(m.share("cmd.new"), m.share("cmd."+n)); err != nil {
		return 0, err
	}
	var said int64
	for {
		code, readErr := os.ReadFile(m.share("rc." + n)) // before what was printed: nothing comes after it
		if said, err = follow(m.share("out."+n), said, out); err != nil {
			return 0, err
		}
		if readErr == nil {
			return strconv.Atoi(strings.TrimSpace(string(code)))
		}
		select {
		case <-m.done:
			return 0, fmt.Errorf("L1 ended: %v; see %s", m.cmd.ProcessState, m.console)
		case <-ctx.Done():
			return 0, fmt.Errorf("command %s in L1: %w; see %s", n, ctx.Err(), m.console)
		case <-time.After(poll):
		}
	}
}

// follow copies what a file has beyond an offset and returns its new end. A
// file that is not there yet is empty.
func follow(name string, from int64, to io.Writer) (int64, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return from, nil
	}
	if err != nil {
		return from, err
	}
	defer f.Close()
	n, err := io.Copy(to, io.NewSectionReader(f, from, 1<<40))
	return from + n, err
}

// Stop ends L1 at once; its disks are as they were before.
func (m *Machine) Stop() {
	_ = m.cmd.Process.Kill() // it may have ended
	<-m.done
}
