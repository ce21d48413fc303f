package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/util"
	godbus "github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Where systemd runs, the tree of cgroups is its own, and what it did not make it may
// take controllers from. A specification that names a unit gets one: a transient scope,
// delegated, so that what is in it is ours (systemd's docs/CGROUP_DELEGATION.md). It
// begins with the first process, for systemd knows no empty scope.

// systemdTimeout bounds what systemd is asked.
const systemdTimeout = 10 * time.Second

// manager is systemd as far as it is asked.
type manager interface {
	start(ctx context.Context, unit string, properties []dbus.Property) error
	set(ctx context.Context, unit string, properties []dbus.Property) error
	// stop ends a unit; one that is not there is no error.
	stop(ctx context.Context, unit string) error
	close()
}

// connect is replaced by tests.
var connect = func(ctx context.Context) (manager, error) {
	c, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, err
	}
	return bus{c}, nil
}

// managed says whether systemd is the host's first process.
var managed = util.IsRunningSystemd

// ask asks systemd something.
func ask(what func(context.Context, manager) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), systemdTimeout)
	defer cancel()
	m, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("systemd does not answer: %w", err)
	}
	defer m.close()
	return what(ctx, m)
}

// bus is systemd on D-Bus.
type bus struct{ *dbus.Conn }

func (b bus) start(ctx context.Context, unit string, properties []dbus.Property) error {
	return job(ctx, func(done chan<- string) error {
		_, err := b.StartTransientUnitContext(ctx, unit, "fail", properties, done)
		return err
	})
}

func (b bus) set(ctx context.Context, unit string, properties []dbus.Property) error {
	return b.SetUnitPropertiesContext(ctx, unit, true, properties...)
}

func (b bus) stop(ctx context.Context, unit string) error {
	err := job(ctx, func(done chan<- string) error {
		_, err := b.StopUnitContext(ctx, unit, "replace", done)
		return err
	})
	if isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return nil
	}
	_ = b.ResetFailedUnitContext(ctx, unit) // it is there only if it failed
	return err
}

func (b bus) close() { b.Close() }

// job waits for what begin began.
func job(ctx context.Context, begin func(done chan<- string) error) error {
	done := make(chan string, 1)
	if err := begin(done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("the job is %s", result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func isError(err error, name string) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == name
}

// startScope makes the scope at a path around processes. One that a host left behind
// has no process any more and goes.
func startScope(hier hierarchy, path string, limits Limits, pids []int) error {
	unit := filepath.Base(path)
	properties := append(scopeProperties(path, pids), limitProperties(hier, limits)...)
	return ask(func(ctx context.Context, m manager) error {
		err := m.start(ctx, unit, properties)
		if isError(err, "org.freedesktop.systemd1.UnitExists") {
			if err = m.stop(ctx, unit); err == nil {
				err = m.start(ctx, unit, properties)
			}
		}
		if err != nil {
			return fmt.Errorf("systemd makes no scope %s: %w", unit, err)
		}
		return nil
	})
}

// setScope changes limits of a scope that systemd knows. The files have them too.
func setScope(hier hierarchy, path string, limits Limits) {
	properties := limitProperties(hier, limits)
	if len(properties) == 0 {
		return
	}
	err := ask(func(ctx context.Context, m manager) error { return m.set(ctx, filepath.Base(path), properties) })
	if err != nil {
		log.L.WithError(err).WithField("cgroup", path).Warn("systemd does not know of limits, and may undo them")
	}
}

// stopScope has systemd forget a scope, whose processes have ended.
func stopScope(path string) {
	err := ask(func(ctx context.Context, m manager) error { return m.stop(ctx, filepath.Base(path)) })
	if err != nil { // its cgroup is removed all the same, which ends it
		log.L.WithError(err).WithField("cgroup", path).Warn("systemd does not stop the scope")
	}
}

// scopeProperties describe a scope (systemd.scope(5), systemd.resource-control(5)).
func scopeProperties(path string, pids []int) []dbus.Property {
	slice := filepath.Base(filepath.Dir(path))
	if slice == "/" {
		slice = "-.slice"
	}
	numbers := make([]uint32, len(pids))
	for i, pid := range pids {
		numbers[i] = uint32(pid)
	}
	return []dbus.Property{
		dbus.PropDescription("machine of the container " + filepath.Base(path)),
		dbus.PropSlice(slice),
		dbus.PropPids(numbers...),
		property("Delegate", true), property("DefaultDependencies", false),
		property("MemoryAccounting", true), property("CPUAccounting", true), property("TasksAccounting", true),
	}
}

// limitProperties are limits as systemd knows them, so that it keeps them whenever it
// writes its own down again. What it has no property for is written to the files alone.
func limitProperties(hier hierarchy, limits Limits) (p []dbus.Property) {
	_, v2 := hier.(unified)
	if limits.MemoryBytes > 0 {
		p = append(p, property(map[bool]string{true: "MemoryMax", false: "MemoryLimit"}[v2], uint64(limits.MemoryBytes)))
	}
	res := resources(limits)
	if res.CPU == nil {
		return p
	}
	if quota := res.CPU.Quota; quota != nil {
		p = append(p, property("CPUQuotaPerSecUSec", perSecond(*quota, *res.CPU.Period)))
	}
	if shares := res.CPU.Shares; shares != nil && *shares > 0 {
		if weight := cgroup2.ToResources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: shares}}); v2 && weight.CPU.Weight != nil {
			p = append(p, property("CPUWeight", *weight.CPU.Weight))
		} else if !v2 {
			p = append(p, property("CPUShares", *shares))
		}
	}
	return p
}

// perSecond is a quota of CPU time in µs a second; systemd wants it in steps of 10 ms,
// and the largest number for none.
func perSecond(quota int64, period uint64) uint64 {
	const second, step = 1_000_000, 10_000
	if quota <= 0 || period == 0 {
		return ^uint64(0)
	}
	n := uint64(quota) * second / period
	return (n + step - 1) / step * step
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}
