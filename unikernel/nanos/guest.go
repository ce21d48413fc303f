package nanos

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/watch"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Name is the guest's name in configuration and annotations.
const Name = "nanos"

// Files of a directory with a kernel, as they are named in releases of Nanos.
const (
	BootImage   = "boot.img"
	KernelImage = "kernel.img"
)

// Config is what the guest needs to know of the host.
type Config struct {
	// Kernel is the directory with BootImage and KernelImage.
	Kernel string
	// Machine is QEMU's machine type, "microvm" or "q35", or MachineAuto.
	Machine string
	// CopyWritable gives a container a copy of what it wants to write to on the
	// host; else that is refused.
	CopyWritable bool
	// MaxVolume is how many bytes a bind mount can have that needs a disk.
	MaxVolume int64
}

// Guest is the nanos guest.
type Guest struct{ cfg Config }

var _ unikernel.Guest = (*Guest)(nil)

// New returns the guest for a host.
func New(cfg Config) *Guest { return &Guest{cfg: cfg} }

// Name implements unikernel.Guest.
func (g *Guest) Name() string { return Name }

// Capacity implements unikernel.Guest.
func (g *Guest) Capacity() int { return 1 }

// Plan implements unikernel.Guest.
func (g *Guest) Plan(app unikernel.App, r unikernel.Resources) (unikernel.Plan, error) {
	if err := check(app.Spec); err != nil {
		return unikernel.Plan{}, err
	}
	c, err := g.Configure(app)
	if err != nil {
		return unikernel.Plan{}, err
	}
	kind := g.cfg.Machine
	if kind == MachineAuto && len(c.Volumes) > microVolumes {
		kind = machineQ35
	}
	kind, r, err = machine(kind, r)
	if err != nil {
		return unikernel.Plan{}, err
	}
	kernel := filepath.Join(g.cfg.Kernel, KernelImage)
	return unikernel.Plan{
		Boot: unikernel.Boot{Machine: kind, Kernel: kernel, Resources: r, Board: board, Queues: queues},
		Disks: []unikernel.DiskRequest{{
			Kind: unikernel.DiskBoot, Serial: unikernel.SerialRoot,
			Boot: unikernel.BootDisk{Boot: filepath.Join(g.cfg.Kernel, BootImage), Kernel: kernel},
		}},
		Without: without(app.Spec), OneProcess: true,
	}, nil
}

// queues is how many queues of a network interface the kernel uses.
const queues = 1

// Prepare implements unikernel.Guest.
func (g *Guest) Prepare(app unikernel.App) (unikernel.Prepared, error) {
	c, err := g.Configure(app)
	return unikernel.Prepared{Boot: &c, Without: c.Without}, err
}

// Connect implements unikernel.Guest.
func (g *Guest) Connect(_ context.Context, m unikernel.Booted) (unikernel.Session, error) {
	return g.Watch(m), nil
}

// The kernel does not notice the power button before it has set up ACPI, and
// signals no program before it has loaded one. The last it says before that is
// about the network; a program is loaded well within loadTime from then on. A
// kernel that says nothing has bootTime.
const (
	loadTime = 500 * time.Millisecond
	bootTime = 15 * time.Second
)

// Watch returns the session of a machine that runs.
func (g *Guest) Watch(m unikernel.Watched) unikernel.Session {
	return watch.New(watch.Guest{
		Refuse: refuse,
		Output: func(w io.Writer) io.WriteCloser { return &filter{out: w} },
		Exit:   exit,
		Load:   loadTime, Silence: bootTime,
	}, m)
}

// refuse is the error about what this guest does not have.
func refuse(what string) error {
	return fmt.Errorf("%w: the %s guest has %s; use the guest \"linux\" (annotation io.containerd.uni.guest=linux)",
		unikernel.ErrNotImplemented, Name, what)
}

// check refuses what this guest cannot honour.
func check(s *specs.Spec) error {
	if err := watch.Check(s, refuse); err != nil {
		return err
	}
	switch {
	case len(s.Process.Args) == 0 || s.Process.Args[0] == "":
		return fmt.Errorf("%w: the specification has no program", unikernel.ErrInvalid)
	case s.Process.Cwd != "" && !strings.HasPrefix(s.Process.Cwd, "/"):
		return fmt.Errorf("%w: the working directory %q is not absolute", unikernel.ErrInvalid, s.Process.Cwd)
	}
	if err := checkDevices(s.Linux.Devices); err != nil {
		return err
	}
	return checkMounts(s.Mounts)
}

// mountTypes are those that can be left out.
var mountTypes = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "bind", "none", ""}

func checkMounts(list []specs.Mount) error {
	for _, m := range list {
		if !slices.Contains(mountTypes, m.Type) {
			return refuse(fmt.Sprintf("no mounts of type %q, as asked for at %s", m.Type, m.Destination))
		}
	}
	return nil
}
