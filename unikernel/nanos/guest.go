package nanos

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Name is the guest's name in configuration and annotations.
const Name = "nanos"

// Files of a directory with a kernel, as they are named in releases of Nanos.
const (
	BootImage   = "boot.img"
	KernelImage = "kernel.img"
)

// MinMemoryMiB is the least RAM, in MiB, that a machine boots and runs a small
// program with: 12 measured with a static C program, 15 with one in Go.
const MinMemoryMiB = 16

// machineType is the one that ends by itself after the power button. QEMU's
// microvm boots sooner but then stays, halted.
const machineType = "q35"

// Config is what the guest needs to know of the host.
type Config struct {
	// Kernel is the directory with BootImage and KernelImage.
	Kernel string
}

// Guest is the nanos guest.
type Guest struct{ cfg Config }

var _ unikernel.Watcher = (*Guest)(nil)

// New returns the guest for a host.
func New(cfg Config) *Guest { return &Guest{cfg: cfg} }

// Name implements unikernel.Guest.
func (g *Guest) Name() string { return Name }

// Plan implements unikernel.Guest.
func (g *Guest) Plan(app unikernel.App, r unikernel.Resources) (unikernel.Plan, error) {
	if err := check(app.Spec); err != nil {
		return unikernel.Plan{}, err
	}
	if r.MemoryMiB < MinMemoryMiB {
		return unikernel.Plan{}, fmt.Errorf("%w: the memory limit of %d MiB is too small for the %s guest, which needs %d MiB",
			unikernel.ErrInvalid, r.MemoryMiB, Name, MinMemoryMiB)
	}
	if r.VCPUs < 1 {
		return unikernel.Plan{}, fmt.Errorf("%w: %d virtual CPUs", unikernel.ErrInvalid, r.VCPUs)
	}
	if _, err := g.Configure(app); err != nil {
		return unikernel.Plan{}, err
	}
	kernel := filepath.Join(g.cfg.Kernel, KernelImage)
	return unikernel.Plan{
		Machine: machineType, Kernel: kernel, Resources: r,
		Disk: &unikernel.BootDisk{Boot: filepath.Join(g.cfg.Kernel, BootImage), Kernel: kernel},
	}, nil
}

// Attach implements unikernel.Guest.
func (g *Guest) Attach(_ context.Context, conn io.ReadWriteCloser) (unikernel.Session, error) {
	conn.Close()
	return nil, fmt.Errorf("%w: the %s guest has no control channel", unikernel.ErrNotImplemented, Name)
}

// refuse is the error about what this guest does not have.
func refuse(what string) error {
	return fmt.Errorf("%w: the %s guest has %s; use the guest \"linux\" (annotation io.containerd.uni.guest=linux)",
		unikernel.ErrNotImplemented, Name, what)
}

// check refuses what this guest cannot honour.
func check(s *specs.Spec) error {
	switch {
	case s == nil || s.Process == nil || s.Linux == nil:
		return fmt.Errorf("%w: the specification has no process or no linux section", unikernel.ErrInvalid)
	case len(s.Process.Args) == 0 || s.Process.Args[0] == "":
		return fmt.Errorf("%w: the specification has no program", unikernel.ErrInvalid)
	case s.Process.Cwd != "" && !strings.HasPrefix(s.Process.Cwd, "/"):
		return fmt.Errorf("%w: the working directory %q is not absolute", unikernel.ErrInvalid, s.Process.Cwd)
	case s.Process.Terminal:
		return refuse("no terminals")
	case s.Hooks != nil && len(s.Hooks.StartContainer) > 0:
		return refuse("no place to run startContainer hooks")
	case len(s.Linux.UIDMappings) > 0 || len(s.Linux.GIDMappings) > 0:
		return refuse("no users to map")
	}
	have := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range s.Linux.Namespaces {
		have[ns.Type] = true
		if ns.Path != "" && ns.Type != specs.NetworkNamespace {
			return fmt.Errorf("%w: a machine cannot join the %s namespace %s", unikernel.ErrNotImplemented, ns.Type, ns.Path)
		}
	}
	for _, t := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.PIDNamespace, specs.IPCNamespace} {
		if !have[t] {
			return fmt.Errorf("%w: a machine has a kernel of its own and cannot share the host's %s namespace", unikernel.ErrNotImplemented, t)
		}
	}
	return checkMounts(s.Mounts)
}

// mountTypes are those that can be left out.
var mountTypes = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "bind", "none", ""}

func checkMounts(list []specs.Mount) error {
	for _, m := range list {
		switch {
		case !strings.HasPrefix(m.Destination, "/"):
			return fmt.Errorf("%w: mount destination %q is not absolute", unikernel.ErrInvalid, m.Destination)
		case !slices.Contains(mountTypes, m.Type):
			return refuse(fmt.Sprintf("no mounts of type %q, as asked for at %s", m.Type, m.Destination))
		}
	}
	return nil
}
