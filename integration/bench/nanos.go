package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"containerd-shim-uni/unikernel"
)

// speaker is a program that says "ready" and goes on until it is killed.
var speaker = []string{"sh", "-c", "echo ready; while :; do :; done"}

// nanos measures the guest "nanos", where a kernel of it is at hand.
func (b *bench) nanos(ctx context.Context, runs int, t *table) error {
	if os.Getenv(nanosDir) == "" {
		return nil
	}
	for _, machine := range []string{"microvm", "q35"} {
		if err := b.nanosOn(ctx, machine, runs, t); err != nil {
			return fmt.Errorf("nanos on %s: %w", machine, err)
		}
	}
	return nil
}

func (b *bench) nanosOn(ctx context.Context, machine string, runs int, t *table) error {
	run := b.nanosRun(machine)
	first, err := run.start(ctx)
	if err != nil {
		return err
	}
	time.Sleep(rest)
	bare, err := b.lookAtNanos(machine, t)
	if err := errors.Join(err, first.end()); err != nil {
		return err
	}
	var whole, ours, theirs []time.Duration
	for range runs {
		r, err := run.start(ctx)
		if err != nil {
			return err
		}
		if err := r.end(); err != nil {
			return err
		}
		q, err := bare.boot(ctx)
		if err != nil {
			return fmt.Errorf("bare QEMU: %w", err)
		}
		whole, ours, theirs = append(whole, r.output.Sub(r.begin)), append(ours, r.output.Sub(r.disks)), append(theirs, q)
	}
	t.head(fmt.Sprintf("nanos on %s, a static program to its first output, in turn (medians of %d, lowest)", machine, runs))
	t.ms("ctr run", whole)
	t.ms("… of it from disks ready", ours)
	t.ms("bare QEMU, same disk", theirs)
	return nil
}

// nanosRun is a "ctr run" of the speaker.
type nanosRun struct {
	b    *bench
	args []string
	// layer is the last file that is made before the machine.
	layer string
}

const nanosID = "nanos"

func (b *bench) nanosRun(machine string) nanosRun {
	args := []string{"run", "--rm", "--runtime", uni, "--annotation", "io.containerd.uni.guest=nanos",
		"--annotation", "io.containerd.uni.machine=" + machine, busybox, nanosID}
	return nanosRun{b: b, args: append(args, speaker...), layer: filepath.Join(b.nanosFiles(), "boot.qcow2")}
}

// nanosFiles is the directory of the container's disks.
func (b *bench) nanosFiles() string {
	return filepath.Join(b.data, "containers", unikernel.Key(b.Namespace, nanosID))
}

// speaking is a container whose program has said its word.
type speaking struct {
	b                    *bench
	begin, disks, output time.Time
	cmd                  *exec.Cmd
	out                  io.Reader
}

func (r nanosRun) start(ctx context.Context) (*speaking, error) {
	s := &speaking{b: r.b, cmd: r.b.Command(ctx, r.args...)}
	s.cmd.Stderr = os.Stderr
	var err error
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	seen := make(chan time.Time, 1)
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { seen <- appears(watch, r.layer) }()
	s.begin = time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := readyIn(s.out); err != nil {
		return nil, errors.Join(err, s.cmd.Wait())
	}
	s.output = time.Now()
	s.disks = <-seen
	return s, nil
}

// readyIn reads up to the speaker's word.
func readyIn(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "ready" {
			return nil
		}
	}
	return errors.Join(errors.New("the program said nothing"), lines.Err())
}

func (s *speaking) end() error {
	r := s.b.Ctr(context.Background(), nil, "tasks", "kill", "-s", "KILL", nanosID)
	if r.Code != 0 {
		return fmt.Errorf("kill %s: %s", nanosID, r.Stderr)
	}
	_, _ = io.Copy(io.Discard, s.out)
	_ = s.cmd.Wait() // its status is the kill's
	return nil
}

// lookAtNanos measures the memory of the running machine, and returns the same
// machine without libvirt, containerd and shim.
func (b *bench) lookAtNanos(machine string, t *table) (bareNanos, error) {
	pid := b.find("qemu-system-x86_64")
	if pid == 0 {
		return bareNanos{}, errors.New("the container has no QEMU")
	}
	args := cmdline(pid)
	ram, err := strconv.ParseInt(option(args, "-m"), 10, 64)
	if err != nil {
		return bareNanos{}, fmt.Errorf("QEMU's -m in MiB: %w", err)
	}
	qemu, guest, err := pss(pid, ram<<20)
	if err != nil {
		return bareNanos{}, err
	}
	t.head(fmt.Sprintf("nanos on %s: memory of one machine with %d MiB, %s after its start (PSS)", machine, ram, rest))
	t.line("QEMU beyond the guest's RAM", "%7.1f MiB", mib(qemu))
	t.line("guest's RAM in use", "%7.1f MiB", mib(guest))
	return b.bareNanos(machine, args)
}

// bareNanos is a QEMU that is started by hand.
type bareNanos struct {
	layer string // the container's layer as it was
	disk  string // a copy of it for each boot, beside the base
	args  []string
}

// bareNanos takes over kernel, firmware, processor and disks of a running
// machine; the disks stay when the container is gone. The speaker writes none.
func (b *bench) bareNanos(machine string, args []string) (bareNanos, error) {
	dir := filepath.Join(b.Dir, "bare-"+machine)
	m := bareNanos{layer: filepath.Join(dir, "layer"), disk: filepath.Join(dir, "disk")}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return m, err
	}
	if err := os.Link(filepath.Join(b.nanosFiles(), "boot.tfs"), filepath.Join(dir, "boot.tfs")); err != nil {
		return m, err
	}
	if err := copyFile(m.layer, filepath.Join(b.nanosFiles(), "boot.qcow2")); err != nil {
		return m, err
	}
	bus := "pci"
	m.args = []string{"-machine", machine}
	if machine == "microvm" {
		bus = "device"
		m.args = []string{"-machine", machine + ",ioapic2=off", "-global", "virtio-mmio.force-legacy=false", "-device", "i8042"}
	}
	if firmware := option(args, "-bios"); firmware != "" {
		m.args = append(m.args, "-bios", firmware)
	}
	for _, o := range []string{"-accel", "-cpu", "-m", "-kernel"} {
		m.args = append(m.args, o, option(args, o))
	}
	m.args = slices.Concat(m.args, []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-drive", "if=none,id=root,format=qcow2,cache=unsafe,file=" + m.disk,
		"-device", "virtio-blk-" + bus + ",drive=root,serial=root",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-" + bus + ",rng=rng",
	})
	return m, nil
}

func copyFile(dst, src string) error {
	data, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, data, 0o600)
}

// boot measures from the start of QEMU until the program says its word.
func (m bareNanos) boot(ctx context.Context) (time.Duration, error) {
	if err := copyFile(m.disk, m.layer); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err = readyIn(out)
	took := time.Since(begin)
	_ = cmd.Process.Kill() // it says no more
	_ = cmd.Wait()
	return took, err
}
