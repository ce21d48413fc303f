package linux

import (
	"fmt"
	"strings"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Plan implements unikernel.Guest.
func (g *Guest) Plan(app unikernel.App, r unikernel.Resources) (unikernel.Plan, error) {
	boot, err := g.boot(app, r)
	if err != nil {
		return unikernel.Plan{}, err
	}
	if _, err := process(app.Spec.Process, nil, unikernel.Stdio{}); err != nil {
		return unikernel.Plan{}, err
	}
	if len(app.Shares) > 0 || hasBind(app.Spec) {
		boot.ShareTag = shareTag
	}
	return unikernel.Plan{
		Boot:    boot,
		Without: append(unikernel.UnlimitedResources(app.Spec.Linux.Resources), hostDevices(app.Spec.Linux)...),
		Disks:   disks(app.Spec),
		Volumes: true,
	}, nil
}

// Pod implements unikernel.PodGuest.
func (g *Guest) Pod(app unikernel.App, r unikernel.Resources) (unikernel.Boot, error) {
	boot, err := g.boot(app, r)
	boot.ShareTag = shareTag
	return boot, err
}

// boot is the machine, which is the same for all specifications.
func (g *Guest) boot(app unikernel.App, r unikernel.Resources) (unikernel.Boot, error) {
	if err := check(app.Spec); err != nil {
		return unikernel.Boot{}, err
	}
	if least := MinMemoryMiB(g.cfg.Machine); r.MemoryMiB < least {
		return unikernel.Boot{}, fmt.Errorf("%w: the memory limit of %d MiB is too small for the %s guest on machine type %s, which needs %d MiB",
			unikernel.ErrInvalid, r.MemoryMiB, Name, g.cfg.Machine, least)
	}
	if r.VCPUs < 1 {
		return unikernel.Boot{}, fmt.Errorf("%w: %d virtual CPUs", unikernel.ErrInvalid, r.VCPUs)
	}
	for _, arg := range g.cfg.ExtraCmdline {
		if arg == "" || strings.ContainsAny(arg, " \t\n") {
			return unikernel.Boot{}, fmt.Errorf("%w: kernel argument %q is empty or holds white space", unikernel.ErrInvalid, arg)
		}
	}
	// The same conversion that Run makes: what is wrong shall be known now.
	if _, err := sandbox(unikernel.App{Spec: app.Spec}, ""); err != nil {
		return unikernel.Boot{}, err
	}
	return unikernel.Boot{
		Machine: g.cfg.Machine, Kernel: g.cfg.Kernel, Initrd: g.cfg.Initrd,
		Cmdline: g.cmdline(), Resources: r, Queues: r.VCPUs, Control: controlPort, Parks: true,
		Board: unikernel.Board{ReportsFree: true},
	}, nil
}

// Prepare implements unikernel.Guest: everything is told over the channel.
func (g *Guest) Prepare(unikernel.App) (unikernel.Prepared, error) { return unikernel.Prepared{}, nil }

// disks are what a container brings that is alone in its machine.
func disks(s *specs.Spec) []unikernel.DiskRequest {
	list := []unikernel.DiskRequest{{Kind: unikernel.DiskRoot, Serial: unikernel.SerialRoot}}
	if writable(s) {
		list = append(list, unikernel.DiskRequest{Kind: unikernel.DiskWritable, Serial: unikernel.SerialWritable})
	}
	for i, d := range blockDevices(s.Linux) {
		_, write := access(s.Linux.Resources, d)
		list = append(list, unikernel.DiskRequest{Kind: unikernel.DiskDevice, Serial: fmt.Sprintf("device-%d", i), Device: d, ReadOnly: !write})
	}
	return list
}

// writable says whether the root's upper layer needs a disk. Under a read-only
// root it only ever holds mount points.
func writable(s *specs.Spec) bool { return s.Root == nil || !s.Root.Readonly }

func hasBind(s *specs.Spec) bool {
	for _, m := range s.Mounts {
		if isBind(m) {
			return true
		}
	}
	return false
}

// isBind tells whether a mount of the specification is a bind mount: the type
// or an option says so.
func isBind(m specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// check refuses what no machine, or not this guest, can honour.
func check(s *specs.Spec) error {
	switch {
	case s == nil:
		return fmt.Errorf("%w: no specification", unikernel.ErrInvalid)
	case s.Process == nil:
		return fmt.Errorf("%w: the specification has no process", unikernel.ErrInvalid)
	case s.Windows != nil || s.Solaris != nil || s.ZOS != nil || s.FreeBSD != nil:
		return fmt.Errorf("%w: the specification is not for Linux; the %s guest runs Linux programs only", unikernel.ErrInvalid, Name)
	case s.Linux == nil:
		return fmt.Errorf("%w: the specification has no linux section", unikernel.ErrInvalid)
	case s.Hooks != nil && len(s.Hooks.StartContainer) > 0:
		return refuse("startContainer hooks", "a hook of the host cannot run inside the machine")
	case len(s.Linux.UIDMappings) > 0 || len(s.Linux.GIDMappings) > 0:
		return refuse("user namespaces", "the machine isolates the container's users already; run it without a user mapping")
	}
	if err := checkNamespaces(s.Linux.Namespaces); err != nil {
		return err
	}
	if err := unikernel.CheckUnsupported(s); err != nil {
		return err
	}
	for _, m := range s.Mounts {
		if err := checkMount(m); err != nil {
			return err
		}
	}
	if _, _, err := seccompFilter(s.Linux.Seccomp); err != nil {
		return err
	}
	return checkDevices(s.Linux)
}

func refuse(what, why string) error {
	return fmt.Errorf("%w: %s in a %s guest: %s", unikernel.ErrNotImplemented, what, Name, why)
}

// checkNamespaces wants namespaces of the container's own. Only the network's
// may have a path: the host connects the machine to it.
func checkNamespaces(list []specs.LinuxNamespace) error {
	have := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range list {
		have[ns.Type] = true
		if ns.Path != "" && ns.Type != specs.NetworkNamespace {
			return refuse(fmt.Sprintf("%s namespace of %s", ns.Type, ns.Path),
				"a machine has a kernel of its own and cannot join a namespace of the host")
		}
		if ns.Type == specs.UserNamespace {
			return refuse("user namespaces", "the machine isolates the container's users already; run it without one")
		}
	}
	for _, t := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if !have[t] {
			return refuse(fmt.Sprintf("the host's %s namespace", t),
				"a machine has a kernel of its own; run the container without host "+string(t))
		}
	}
	return nil
}

// mountTypes are the file systems that a container can ask for.
var mountTypes = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "mqueue": true,
	"cgroup": true, "cgroup2": true,
}

func checkMount(m specs.Mount) error {
	if !strings.HasPrefix(m.Destination, "/") {
		return fmt.Errorf("%w: mount destination %q is not absolute", unikernel.ErrInvalid, m.Destination)
	}
	for _, o := range m.Options {
		if o == "tmpcopyup" {
			return refuse("mount option tmpcopyup of "+m.Destination, "copy the files in the image instead")
		}
	}
	if !isBind(m) && !mountTypes[m.Type] {
		return refuse(fmt.Sprintf("mount of type %q at %s", m.Type, m.Destination),
			"its source is the host's; bind-mount a directory instead")
	}
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		return refuse("ID-mapped mount at "+m.Destination, "the machine's users are its own")
	}
	return nil
}
