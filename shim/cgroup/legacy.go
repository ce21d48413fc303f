package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// legacy is cgroup version 1: one tree a controller.
type legacy struct{}

// legacyControllers are those that limit or count something for us.
var legacyControllers = []cgroup1.Name{
	cgroup1.Memory, cgroup1.Cpu, cgroup1.Cpuacct, cgroup1.Cpuset, cgroup1.Pids, cgroup1.Blkio,
}

// controllers returns the trees that the host mounts.
func (legacy) controllers() ([]cgroup1.Subsystem, error) {
	all, err := cgroup1.Default()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(s cgroup1.Subsystem) bool {
		return !slices.Contains(legacyControllers, s.Name())
	}), nil
}

// roots implements hierarchy. A tree whose directory is not known is left out.
func (l legacy) roots() (dirs []string) {
	controllers, err := l.controllers()
	if err != nil {
		return nil
	}
	for _, c := range controllers {
		if tree, ok := c.(interface{ Path(string) string }); ok {
			dirs = append(dirs, tree.Path("/"))
		}
	}
	return dirs
}

func only(subsystems ...cgroup1.Subsystem) cgroup1.InitOpts {
	return cgroup1.WithHierarchy(func() ([]cgroup1.Subsystem, error) { return subsystems, nil })
}

func (l legacy) load(path string) (cgroup1.Cgroup, error) {
	return cgroup1.Load(cgroup1.StaticPath(path), cgroup1.WithHierarchy(l.controllers))
}

func (l legacy) exists(path string) bool {
	_, err := l.load(path)
	return err == nil
}

func (l legacy) create(path string, res *specs.LinuxResources) error {
	controllers, err := l.controllers()
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if _, err := cgroup1.New(cgroup1.StaticPath(path), res, only(c)); err != nil {
			if !unusable(err) {
				return fmt.Errorf("controller %s: %w", c.Name(), err)
			}
			log.L.WithError(err).WithField("controller", c.Name()).Info("cgroup controller cannot be used")
		}
	}
	return nil
}

func (l legacy) add(path string, pid int) error {
	g, err := l.load(path)
	if err != nil {
		return err
	}
	return g.AddProc(uint64(pid))
}

// join implements hierarchy. A cgroup of somebody else may be about controllers
// that limit nothing of ours, such as devices and freezer.
func (legacy) join(path string, pid int) error {
	g, err := cgroup1.Load(cgroup1.StaticPath(path))
	if errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return os.ErrNotExist
	}
	if err != nil {
		return err
	}
	return g.AddProc(uint64(pid))
}

func (l legacy) update(path string, res *specs.LinuxResources) error {
	g, err := l.load(path)
	if err != nil {
		return err
	}
	return g.Update(res)
}

func (l legacy) stats(path string) (proto.Message, error) {
	g, err := l.load(path)
	if err != nil {
		return nil, err
	}
	return g.Stat(cgroup1.IgnoreNotExist)
}

func (l legacy) oomKills(path string) (uint64, error) {
	controllers, err := l.controllers()
	if err != nil {
		return 0, err
	}
	for _, c := range controllers {
		tree, ok := c.(interface{ Path(string) string })
		if ok && c.Name() == cgroup1.Memory {
			return readCounter(filepath.Join(tree.Path(path), "memory.oom_control"), "oom_kill")
		}
	}
	return 0, nil
}

func (l legacy) remove(path string) error {
	g, err := l.load(path)
	if errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return nil
	}
	if err != nil {
		return err
	}
	return g.Delete()
}

// readCounter returns the number after a name in one of the kernel's files of
// lines "name number"; a name that is absent counts 0.
func readCounter(file, name string) (uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if n, value, ok := strings.Cut(lines.Text(), " "); ok && n == name {
			return strconv.ParseUint(value, 10, 64)
		}
	}
	return 0, lines.Err()
}

func (l legacy) kill(path string) error {
	g, err := l.load(path)
	if errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, c := range g.Subsystems() {
		procs, err := g.Processes(c.Name(), true)
		if err != nil {
			return err
		}
		for _, p := range procs {
			if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}
