package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/shim/console"
	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/unikernel"

	"golang.org/x/sync/errgroup"
)

const mib = 1 << 20

// Hardware is what a machine is made of beside what is the sandbox's own:
// names, network, sockets.
type Hardware struct {
	unikernel.Boot
	// OwnKernel says that kernel and initrd are files of a member's own.
	OwnKernel bool
	// Disks are plugged in before the machine boots.
	Disks []unikernel.Disk
	// LUNs says that disks can come while the machine runs, see Sandbox.Attach.
	LUNs bool
	// Share is what is shared at the directory Names.Share; nil for nothing. It is the
	// sandbox's from here on.
	Share *share.Tree
	// Submounts says that it holds several file systems, see unikernel.Share.
	Submounts bool
	// Record returns what the guest left for its host, see unikernel.Watched; nil
	// for nothing.
	Record func() ([]byte, error)
}

// Build returns the hardware for a network. It is called again when the network
// turns out to be another.
type Build func(context.Context, unikernel.Network) (Hardware, error)

// Exists says whether anything of a sandbox is on the host.
func (n Names) Exists() bool {
	_, err := os.Lstat(n.State)
	return !errors.Is(err, os.ErrNotExist)
}

// Open makes the sandbox's directory, after ending whatever an earlier sandbox of
// the same name may have left. From here on Release frees the host.
func (s *Sandbox) Open(ctx context.Context) error {
	if s.names.Exists() {
		machines, err := s.host.Machines(ctx, s.spec.Config)
		if err != nil {
			return err
		}
		s.log().Warn("cleaning up what is left of an earlier sandbox of this name")
		if err := machines.Destroy(ctx, s.names.Domain()); err != nil {
			return err
		}
		if err := Cleanup(ctx, s.names, s.netns, s.networks); err != nil {
			return err
		}
	}
	// QEMU need not be root: it may pass through, and see nothing.
	if err := os.MkdirAll(filepath.Dir(s.names.State), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(s.names.State, 0o711); err != nil || s.ownNetns {
		return err
	}
	return os.WriteFile(s.names.joined(), []byte(s.netns), 0o600)
}

// Connect connects to libvirt, and says whether it emulates the processor.
func (s *Sandbox) Connect(ctx context.Context) (emulated bool, err error) {
	defer s.took("libvirt", time.Now())
	if s.machines, err = s.host.Machines(ctx, s.spec.Config); err != nil {
		return false, err
	}
	return s.machines.Emulated(), nil
}

// Prepare makes the cgroup and the network namespace, and looks what the machine
// takes over from there. fill, unless it is nil, may change the namespace before:
// it is told the number of the stand-in.
func (s *Sandbox) Prepare(ctx context.Context, fill func(ctx context.Context, pid int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(s.makeGroup)
	group.Go(func() error { return s.makeNetwork(ctx, fill) })
	return group.Wait()
}

func (s *Sandbox) makeGroup() error {
	at, err := cgroup.PlaceOf(s.spec.CgroupsPath, s.names.Namespace, s.names.ID)
	if err != nil {
		return err
	}
	s.group, err = s.host.Cgroup(s.names.cgroupRecord(), at, cgroup.Limits{
		MemoryBytes: int64(s.spec.Size.MemoryMiB+s.spec.Config.Machine.OverheadMiB) * mib,
		CPU:         s.spec.CPU,
	})
	return err
}

func (s *Sandbox) makeNetwork(ctx context.Context, fill func(ctx context.Context, pid int) error) (err error) {
	if s.ownNetns {
		if err := s.networks.New(s.netns); err != nil {
			return err
		}
	}
	if s.standIn, err = s.occupy(s.names.ID); err != nil {
		return err
	}
	if fill != nil {
		if err := fill(ctx, s.standIn.Pid()); err != nil {
			return err
		}
	}
	s.network, err = s.networks.Look(s.netns)
	return err
}

// Create makes the machine, paused, and puts its processes where they belong.
// When it fails, or is given up, Leave and Release take it back.
func (s *Sandbox) Create(ctx context.Context, guest unikernel.Guest, build Build) error {
	s.guest, s.build = guest, build
	if err := s.make(ctx, s.network); err != nil {
		return err
	}
	if err := s.step(opCreate); err != nil {
		return err
	}
	s.watch()
	s.watchLoopback()
	return ctx.Err() // nobody waits for a machine whose client is gone
}

// make makes a machine for a network.
func (s *Sandbox) make(ctx context.Context, n unikernel.Network) (err error) {
	if s.hardware, err = s.build(ctx, n); err != nil {
		return err
	}
	where := ""
	if s.machines.InNetNS() {
		where = s.netns
	}
	nics, err := s.networks.Tap(s.names.Key, where, n, max(s.hardware.Queues, 1))
	if err != nil {
		return err
	}
	began := time.Now()
	pids, err := s.createMachine(ctx, s.document(nics))
	if err != nil {
		return fmt.Errorf("create machine: %w", err)
	}
	if s.fork.forked {
		s.took("machine from a template", began)
	} else {
		s.took("machine", began)
	}
	s.adopt(pids)
	if err := s.settle(pids, n); err != nil {
		return err
	}
	s.attachConsole()
	return nil
}

// adopt holds the processes of a machine, and no other's.
func (s *Sandbox) adopt(pids unikernel.Pids) {
	s.vm.adopt(pids.VM)
	s.closeHelpers()
	s.helpers = nil
	for _, pid := range pids.Helpers {
		p := noProcess()
		p.adopt(pid)
		s.helpers = append(s.helpers, p)
	}
}

func (s *Sandbox) closeHelpers() {
	for _, p := range s.helpers {
		p.close()
	}
}

// Describe describes the machine without what is the sandbox's own: its channel and
// its console have no places yet.
func (h Hardware) Describe() unikernel.Machine {
	m := unikernel.Machine{
		Type: h.Machine, Resources: h.Resources, Board: h.Board, Kernel: h.Kernel, Initrd: h.Initrd, Cmdline: slices.Clone(h.Cmdline),
		Private:   h.Private,
		OwnKernel: h.OwnKernel,
		Disks:     h.Disks,
		LUNs:      h.LUNs,
		Console:   "/",
	}
	if h.Control != "" {
		m.Channels = []unikernel.Channel{{Name: h.Control}}
	}
	return m
}

// document describes the machine.
func (s *Sandbox) document(nics []unikernel.NIC) unikernel.Machine {
	h := s.hardware
	m := h.Describe()
	m.Name, m.Title, m.NICs, m.NetNS = s.names.Domain(), s.title(), nics, s.netns
	m.Console = s.names.Console()
	for i := range m.Channels {
		m.Channels[i].Socket = s.names.Control()
	}
	if h.Share != nil {
		m.Share = &unikernel.Share{Source: s.names.Share(), MountNS: h.Share.Namespace(), Tag: h.ShareTag, Submounts: h.Submounts}
	}
	return m
}

// settle puts a paused machine where it belongs on the host.
func (s *Sandbox) settle(pids unikernel.Pids, n unikernel.Network) error {
	if adj := s.spec.OOMScoreAdj; adj != nil {
		s.Score(*adj)
	}
	if err := s.group.Add(append([]int{s.standIn.Pid(), pids.VM}, pids.Helpers...)...); err != nil {
		return err
	}
	if len(n.Interfaces) == 0 {
		return nil
	}
	return s.networks.Join(s.names.Key, s.netns, n)
}

// attachConsole begins to read the machine's console: for diagnosis, and for a
// guest that has no other voice.
func (s *Sandbox) attachConsole() {
	s.mu.Lock()
	old := s.console
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
	var output *io.PipeReader
	var con *console.Console
	if s.hardware.Alone() {
		r, w := io.Pipe()
		output, con = r, console.Attach(s.names.Console(), w)
	} else {
		con = console.Attach(s.names.Console(), nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.console, s.output = con, output
}
