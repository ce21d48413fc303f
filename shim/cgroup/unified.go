package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// unified is cgroup version 2: one tree for all controllers.
type unified struct{ root string }

func (u unified) roots() []string { return []string{u.root} }

func (u unified) dir(path string) string { return filepath.Join(u.root, path) }

func (u unified) load(path string) (*cgroup2.Manager, error) {
	if !u.exists(path) {
		return nil, os.ErrNotExist
	}
	return cgroup2.Load(path, cgroup2.WithMountpoint(u.root))
}

func (u unified) exists(path string) bool {
	_, err := os.Stat(u.dir(path))
	return err == nil
}

// create makes the directory, then hands down and limits each controller by
// itself: one that the host keeps from us costs only its own limit.
func (u unified) create(path string, res *specs.LinuxResources) error {
	if err := os.MkdirAll(u.dir(path), 0o755); err != nil {
		return err
	}
	m, err := cgroup2.Load(path, cgroup2.WithMountpoint(u.root))
	if err != nil {
		return err
	}
	available, err := m.RootControllers()
	if err != nil {
		return err
	}
	for _, c := range []string{"memory", "cpu", "cpuset", "pids", "io"} {
		if !slices.Contains(available, c) {
			log.L.WithField("controller", c).Info("the host has no such cgroup controller")
			continue
		}
		if err := m.ToggleControllers([]string{c}, cgroup2.Enable); err != nil {
			log.L.WithError(err).WithField("controller", c).Info("cgroup controller cannot be used")
		}
	}
	for _, part := range []*specs.LinuxResources{{Memory: res.Memory}, {CPU: res.CPU}} {
		if err := u.apply(m, part); err != nil {
			return err
		}
	}
	return nil
}

func (u unified) apply(m *cgroup2.Manager, res *specs.LinuxResources) error {
	err := m.Update(cgroup2.ToResources(res))
	if err != nil && unusable(err) {
		log.L.WithError(err).Warn("limit of the cgroup is not in force")
		return nil
	}
	return err
}

func (u unified) add(path string, pid int) error {
	m, err := u.load(path)
	if err != nil {
		return err
	}
	return m.AddProc(uint64(pid))
}

func (u unified) join(path string, pid int) error { return u.add(path, pid) }

func (u unified) update(path string, res *specs.LinuxResources) error {
	m, err := u.load(path)
	if err != nil {
		return err
	}
	return m.Update(cgroup2.ToResources(res))
}

func (u unified) stats(path string) (proto.Message, error) {
	m, err := u.load(path)
	if err != nil {
		return nil, err
	}
	return m.Stat()
}

func (u unified) oomKills(path string) (uint64, error) {
	return readCounter(filepath.Join(u.dir(path), "memory.events"), "oom_kill")
}

func (u unified) remove(path string) error {
	m, err := u.load(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.Delete()
}

func (u unified) kill(path string) error {
	m, err := u.load(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.Kill()
}
