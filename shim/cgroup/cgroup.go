package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// defaultPeriod is the kernel's default CFS period, in microseconds.
const defaultPeriod = 100_000

// Limits are what a container's cgroup enforces on the host.
type Limits struct {
	// MemoryBytes is the most memory its processes use together; 0 is no limit.
	MemoryBytes int64
	// CPU is the specification's CPU part, or nil.
	CPU *specs.LinuxCPU
}

// Group is a container's cgroup.
type Group struct {
	hier hierarchy
	path string
	// scope says that it is systemd's. Its limits are those of a scope that begins
	// with its first process; guarded by mu.
	scope  bool
	mu     sync.Mutex
	limits *Limits
}

// hierarchy is one version of cgroups.
type hierarchy interface {
	// roots are the directories of the trees.
	roots() []string
	exists(path string) bool
	create(path string, res *specs.LinuxResources) error
	add(path string, pid int) error
	// join moves a process into the cgroup of somebody else, in every tree that
	// has it; os.ErrNotExist if none has.
	join(path string, pid int) error
	update(path string, res *specs.LinuxResources) error
	stats(path string) (proto.Message, error)
	oomKills(path string) (uint64, error)
	bounds(path string) Bounds
	// kill sends SIGKILL to what is in the cgroup.
	kill(path string) error
	remove(path string) error
}

// detect returns the version that the host uses.
func detect() hierarchy {
	if cgroups.Mode() == cgroups.Unified {
		return unified{root: "/sys/fs/cgroup"}
	}
	return legacy{}
}

// Create makes a cgroup with its limits. The file record, whose directory exists, is
// written first: Remove needs nothing else. A cgroup that exists gets the limits too,
// and will not be removed.
func Create(record string, at Place, limits Limits) (*Group, error) {
	return create(detect(), record, at, limits)
}

func create(hier hierarchy, record string, at Place, limits Limits) (*Group, error) {
	g := &Group{hier: hier, path: at.Path, scope: at.Scope && managed()}
	if hier.exists(at.Path) {
		if err := g.update(limits); err != nil && !unusable(err) {
			return nil, fmt.Errorf("limits of cgroup %s: %w", at.Path, err)
		} else if err != nil {
			log.L.WithError(err).WithField("cgroup", at.Path).Warn("limit of the cgroup is not in force")
		}
		return g, nil
	}
	content := at.Path
	if g.scope {
		content += "\n" + scopeWord
		g.limits = &limits
	}
	if err := os.WriteFile(record, []byte(content), 0o600); err != nil {
		return nil, fmt.Errorf("record cgroup: %w", err)
	}
	if g.scope {
		return g, nil
	}
	if err := g.make(limits); err != nil {
		return nil, errors.Join(err, remove(hier, record))
	}
	return g, nil
}

// scopeWord is the second line of the record of a scope.
const scopeWord = "scope"

// make makes the directories, as far as they are not there.
func (g *Group) make(limits Limits) (err error) {
	exclusive(g.hier.roots(), func() {
		missing := missingParents(g.hier.roots(), g.path)
		err = g.hier.create(g.path, resources(limits))
		markParents(missing)
	})
	if err != nil {
		return fmt.Errorf("create cgroup %s: %w", g.path, err)
	}
	return nil
}

// Join moves a process into a cgroup that exists: wholly, whichever controllers
// it has.
func Join(path string, pid int) error { return join(detect(), path, pid) }

func join(hier hierarchy, path string, pid int) error {
	clean := filepath.Clean("/" + path)
	err := hier.join(clean, pid)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: there is no cgroup %s: make it, or leave the runtime option ShimCgroup out", unikernel.ErrInvalid, clean)
	}
	if err != nil {
		return fmt.Errorf("move process %d to cgroup %s: %w", pid, clean, err)
	}
	return nil
}

// Remove deletes the cgroup that a record names, and the record. Processes that
// are still in it are killed, and are an error until they are gone; neither
// record nor cgroup need exist.
func Remove(record string) error { return remove(detect(), record) }

func remove(hier hierarchy, record string) error {
	content, err := os.ReadFile(record)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	name, word, _ := strings.Cut(strings.TrimSpace(string(content)), "\n")
	if filepath.IsAbs(name) && name != "/" {
		if err := hier.kill(name); err != nil {
			return fmt.Errorf("kill processes of cgroup %s: %w", name, err)
		}
		if word == scopeWord && hier.exists(name) {
			stopScope(name)
		}
		if err := hier.remove(name); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", name, err)
		}
		exclusive(hier.roots(), func() { removeParents(hier.roots(), name) })
	}
	return os.Remove(record)
}

// Path returns the path below the cgroup file system.
func (g *Group) Path() string { return g.path }

// Add moves processes into the cgroup.
func (g *Group) Add(pids ...int) error {
	if err := g.begin(pids); err != nil {
		return err
	}
	for _, pid := range pids {
		if err := g.add(pid); err != nil {
			return fmt.Errorf("move process %d to cgroup %s: %w", pid, g.path, err)
		}
	}
	return nil
}

// addTries is how often a scope is completed before a process is refused.
const addTries = 5

// add moves a process. With version 1 systemd removes trees of a scope in which it
// finds nothing, also those that were made for this process an instant ago; they hold
// no limits, which are systemd's.
func (g *Group) add(pid int) error {
	err := g.hier.add(g.path, pid)
	for try := 0; g.scope && errors.Is(err, os.ErrNotExist) && try < addTries; try++ {
		if err = g.make(Limits{}); err == nil {
			err = g.hier.add(g.path, pid)
		}
	}
	return err
}

// begin makes a scope that is not there yet. What systemd has no tree for, as most
// with version 1, is made beside it. Without systemd's help it is a cgroup like others.
func (g *Group) begin(pids []int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limits == nil || len(pids) == 0 {
		return nil
	}
	if err := startScope(g.hier, g.path, *g.limits, pids); err != nil {
		log.L.WithError(err).WithField("cgroup", g.path).Warn("the cgroup is none of systemd's, which may take controllers from it")
		g.scope = false
	}
	if err := g.make(*g.limits); err != nil {
		return err
	}
	g.limits = nil
	return nil
}

// Update changes the limits of CPU.
func (g *Group) Update(cpu *specs.LinuxCPU) error {
	if err := g.update(Limits{CPU: cpu}); err != nil {
		return fmt.Errorf("update cgroup %s: %w", g.path, err)
	}
	return nil
}

func (g *Group) update(limits Limits) error {
	if g.scope {
		setScope(g.hier, g.path, limits)
	}
	return g.hier.update(g.path, resources(limits))
}

// Stats returns the cgroup's metrics in containerd's type for the version in
// use: io.containerd.cgroups.v1.Metrics or io.containerd.cgroups.v2.Metrics.
func (g *Group) Stats() (proto.Message, error) {
	m, err := g.hier.stats(g.path)
	if err != nil {
		return nil, fmt.Errorf("metrics of cgroup %s: %w", g.path, err)
	}
	return m, nil
}

// OOMKills returns how many processes of the cgroup the kernel killed because
// its memory ran out; 0 where the kernel does not tell.
func (g *Group) OOMKills() uint64 {
	n, err := g.hier.oomKills(g.path)
	if err != nil {
		log.L.WithError(err).WithField("cgroup", g.path).Debug("out-of-memory count cannot be read")
	}
	return n
}

// resources returns limits as the specification writes them, copying only what
// concerns processes of the host.
func resources(limits Limits) *specs.LinuxResources {
	res := &specs.LinuxResources{}
	if limits.MemoryBytes > 0 {
		res.Memory = &specs.LinuxMemory{Limit: &limits.MemoryBytes}
	}
	if cpu := limits.CPU; cpu != nil {
		// Realtime limits need privileges and would starve QEMU's own threads.
		res.CPU = &specs.LinuxCPU{
			Shares: cpu.Shares, Quota: cpu.Quota, Period: cpu.Period,
			Burst: cpu.Burst, Idle: cpu.Idle, Cpus: cpu.Cpus, Mems: cpu.Mems,
		}
		if res.CPU.Quota != nil && res.CPU.Period == nil {
			period := uint64(defaultPeriod)
			res.CPU.Period = &period
		}
	}
	return res
}

// unusable says that an error means the host lacks a controller or keeps it
// from us, rather than that a limit is wrong.
func unusable(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) ||
		errors.Is(err, syscall.EOPNOTSUPP)
}
