package prebuilt

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/watch"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Name is the guest's name in configuration and annotations.
const Name = "image"

// MachineAuto is the machine type that follows from the kernel.
const MachineAuto = "auto"

// Config says what boots.
type Config struct {
	// Kernel, Initrd and Disk are absolute paths in the image's root. All but
	// the kernel may be empty.
	Kernel, Initrd, Disk string
	// Cmdline is the Template of the command line.
	Cmdline string
	// Machine is QEMU's machine type; empty means MachineAuto.
	Machine string
	// Exit says what becomes of statuses that the guest writes to isa-debug-exit:
	// ExitAuto (or empty), ExitRaw, ExitIgnore, or pairs, see parseStatuses.
	Exit string
	// Virtio is which virtio the devices speak: VirtioModern, VirtioLegacy, else what
	// both kinds of drivers know, or modern where there is no such thing.
	Virtio string
	// RNG is RNGOn or RNGOff for a source of randomness, else by the kernel's kind.
	RNG string
}

// Values of Config.Virtio and Config.RNG.
const (
	VirtioModern = "modern"
	VirtioLegacy = "legacy"
	RNGOn        = "on"
	RNGOff       = "off"
)

// Guest is the guest "image", of one container.
type Guest struct {
	cfg Config
	// kernel is known of the one that Complete made.
	kernel kernel
}

var _ unikernel.Guest = (*Guest)(nil)

// New returns the guest.
func New(cfg Config) *Guest { return &Guest{cfg: cfg} }

// Name implements unikernel.Guest.
func (g *Guest) Name() string { return Name }

// Capacity implements unikernel.Guest.
func (g *Guest) Capacity() int { return 1 }

// Plan implements unikernel.Guest. Machine type and kernel are still open, see
// Complete.
func (g *Guest) Plan(app unikernel.App, r unikernel.Resources) (unikernel.Plan, error) {
	if err := g.check(app.Spec); err != nil {
		return unikernel.Plan{}, err
	}
	if r.MemoryMiB < 1 || r.VCPUs < 1 {
		return unikernel.Plan{}, fmt.Errorf("%w: %d MiB and %d virtual CPUs", unikernel.ErrInvalid, r.MemoryMiB, r.VCPUs)
	}
	if _, err := g.Cmdline(app); err != nil {
		return unikernel.Plan{}, err
	}
	if _, _, err := g.exits(); err != nil {
		return unikernel.Plan{}, err
	}
	plan := unikernel.Plan{
		Boot: unikernel.Boot{Resources: r, Private: private(g.cfg.Cmdline, app.Spec)}, Without: watch.Without(app.Spec),
		Image: &unikernel.ImageBoot{
			ImageFiles: unikernel.ImageFiles{Kernel: g.cfg.Kernel, Initrd: g.cfg.Initrd, Disk: g.cfg.Disk},
			Complete:   g.Complete,
		},
	}
	if g.cfg.Disk != "" {
		plan.Disks = []unikernel.DiskRequest{{
			Kind: unikernel.DiskImage, Serial: unikernel.SerialRoot, ReadOnly: app.Spec.Root != nil && app.Spec.Root.Readonly,
		}}
	}
	return plan, nil
}

// Complete implements unikernel.ImageBoot. A file that no machine boots is
// unikernel.ErrInvalid.
func (g *Guest) Complete(file io.ReaderAt, size int64, path string) (unikernel.ImageKernel, error) {
	k, err := g.recognise(file)
	if err != nil {
		return unikernel.ImageKernel{}, err
	}
	knowing := &Guest{cfg: g.cfg, kernel: k}
	boots := unikernel.ImageKernel{Guest: knowing, Machine: g.cfg.Machine}
	if boots.Machine == "" || boots.Machine == MachineAuto {
		boots.Machine = cmp.Or(k.kind.machine, machines[k.Protocol])
	}
	if boots.Board, err = knowing.board(); err != nil {
		return unikernel.ImageKernel{}, err
	}
	if k.kind.deaf {
		boots.Without = append(boots.Without, fmt.Sprintf("an end by SIGTERM: %s takes no notice of the power button, and SIGKILL ends it", k.kind))
	}
	if k.Protocol == Multiboot {
		patch, ok := k.multiboot.patch(k.image, size, path)
		if boots.Patch = patch; !ok {
			boots.Without = append(boots.Without, "a command line that begins with its own words: its kernel's path on the host comes first, and its layout leaves no room to drop that")
		}
	}
	return boots, nil
}

// recognise looks at the file that boots.
func (g *Guest) recognise(file io.ReaderAt) (kernel, error) {
	if g.cfg.Kernel == "" {
		k, err := kindOf(file, nil)
		return kernel{Protocol: BIOS, kind: k}, err
	}
	k, err := recognise(file)
	if err != nil {
		return k, fmt.Errorf("%w: the image's kernel %s: %w", unikernel.ErrInvalid, g.cfg.Kernel, err)
	}
	return k, nil
}

// board is what the kernel finds: a PC as it ever was, but for what is known to be in its
// way.
func (g *Guest) board() (unikernel.Board, error) {
	_, device, err := g.exits()
	b := unikernel.Board{BIOS: g.kernel.Protocol != Linux, DebugExit: device, HPET: true, NoMWAIT: true, Halts: true, NoRandom: !g.kernel.kind.random}
	switch g.cfg.RNG {
	case RNGOn:
		b.NoRandom = false
	case RNGOff:
		b.NoRandom = true
	}
	switch g.cfg.Virtio {
	case VirtioModern:
		b.Virtio = unikernel.VirtioModern
	case VirtioLegacy:
		b.Virtio = unikernel.VirtioLegacy
	}
	return b, err
}

// private says that the command line holds the program's environment, which only root
// and the program may read. Its arguments are everywhere for all to see.
func private(cmdline string, s *specs.Spec) bool {
	return strings.Contains(cmdline, "{env") && len(s.Process.Env) > 0
}

// machines are the types on which kernels find what they expect.
var machines = map[Protocol]string{PVH: "microvm", Multiboot: "pc", Linux: "q35", BIOS: "pc"}

// Prepare implements unikernel.Guest.
func (g *Guest) Prepare(app unikernel.App) (unikernel.Prepared, error) {
	words, err := g.Cmdline(app)
	return unikernel.Prepared{Cmdline: words}, err
}

// Cmdline returns the kernel's command line for an App whose network is known.
//
// A multiboot kernel takes the first word for the program's name (multiboot
// specification 0.6.96, 3.3: as boot loaders write it): where the template does not
// begin with it, it comes before that.
func (g *Guest) Cmdline(app unikernel.App) ([]string, error) {
	if g.cfg.Kernel == "" {
		return nil, nil // the disk's own
	}
	words, err := Template(g.cfg.Cmdline).Words(app)
	if err != nil || g.kernel.Protocol != Multiboot || Template(g.cfg.Cmdline).named() && len(app.Spec.Process.Args) > 0 {
		return words, err
	}
	name := path.Base(g.cfg.Kernel)
	if args := app.Spec.Process.Args; len(args) > 0 {
		name = args[0]
	}
	name, err = quote(name)
	return append([]string{name}, words...), err
}

// Connect implements unikernel.Guest.
func (g *Guest) Connect(_ context.Context, m unikernel.Booted) (unikernel.Session, error) {
	return g.Watch(m), nil
}

// Watch returns the session of a machine that runs.
func (g *Guest) Watch(m unikernel.Watched) unikernel.Session {
	how := watch.Guest{Refuse: refuse, Exit: g.exit}
	if reports := g.kernel.kind.reports; len(reports) > 0 && cmp.Or(g.cfg.Exit, ExitAuto) == ExitAuto {
		l := newListener(reports)
		how.Output = l.to
		how.Exit = func(end unikernel.End, m unikernel.Watched) (uint32, error) {
			status, err := g.exit(end, m)
			if said, ok := l.last(); ok && err == nil {
				status = said
			}
			return status, err
		}
	}
	return watch.New(how, m)
}

// refuse is the error about what this guest does not have.
func refuse(what string) error {
	return fmt.Errorf("%w: the guest %q has %s; use the guest \"linux\" (annotation io.containerd.uni.guest=linux)",
		unikernel.ErrNotImplemented, Name, what)
}

// check refuses what this guest cannot honour.
func (g *Guest) check(s *specs.Spec) error {
	switch alone := g.cfg.Kernel == ""; {
	case alone && g.cfg.Disk == "":
		return fmt.Errorf("%w: the guest %q boots a kernel of the container's image, or a disk, and none is named: add the annotation io.containerd.uni.kernel=/PATH/IN/IMAGE, have the image say so (/uni.json), or set image.kernel in the configuration",
			unikernel.ErrInvalid, Name)
	case alone && (g.cfg.Initrd != "" || g.cfg.Cmdline != ""):
		return fmt.Errorf("%w: the disk %s boots by itself, and takes neither an initial RAM disk nor a command line: name the kernel (io.containerd.uni.kernel), or leave these out",
			unikernel.ErrInvalid, g.cfg.Disk)
	case alone && g.cfg.Machine == "microvm":
		return fmt.Errorf("%w: the disk %s boots by a BIOS, which microvm has not: take pc or q35, or name the kernel (io.containerd.uni.kernel)", unikernel.ErrInvalid, g.cfg.Disk)
	}
	for _, p := range []string{g.cfg.Kernel, g.cfg.Initrd, g.cfg.Disk} {
		if p != "" && !path.IsAbs(p) {
			return fmt.Errorf("%w: %q must be an absolute path in the image", unikernel.ErrInvalid, p)
		}
	}
	if err := watch.Check(s, refuse); err != nil {
		return err
	}
	if len(s.Linux.Devices) > 0 {
		return refuse(fmt.Sprintf("no devices of the host, as asked for with %s (and no --privileged)", s.Linux.Devices[0].Path))
	}
	for _, m := range s.Mounts {
		if err := checkMount(m); err != nil {
			return err
		}
	}
	return nil
}

// kernelMounts are mounts of what every kernel has, or has not, by itself.
var kernelMounts = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}

// leftOut are bind mounts that a guest goes without, because clients make them
// for every container and the guest has no file system to put them in.
var leftOut = []string{
	"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", // nerdctl and Kubernetes
	"/dev/termination-log", "/var/run/secrets/kubernetes.io/serviceaccount", // Kubernetes
}

func checkMount(m specs.Mount) error {
	bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
	switch {
	case bind && slices.Contains(leftOut, path.Clean(m.Destination)):
		return nil
	case bind:
		return refuse(fmt.Sprintf("no bind mounts, as asked for at %s", m.Destination))
	case !slices.Contains(kernelMounts, m.Type):
		return refuse(fmt.Sprintf("no mounts of type %q, as asked for at %s", m.Type, m.Destination))
	}
	return nil
}

// clean says whether a command line can hold s: it is one line of text.
func clean(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}
