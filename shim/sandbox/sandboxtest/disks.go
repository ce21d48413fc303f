package sandboxtest

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"containerd-shim-uni/unikernel"
)

// Attach implements sandbox.Machines.
func (f *Machines) Attach(ctx context.Context, name string, d unikernel.Disk, unit int) error {
	err := f.answer(ctx)
	if err == nil && f.OnAttach != nil {
		err = f.OnAttach(d)
	}
	if err != nil && !f.Doubtful {
		return err
	}
	plugged := f.on(name, func(m *machine) error {
		if old, taken := m.luns[unit]; taken {
			return fmt.Errorf("unit %d of machine %s has disk %s: %w", unit, name, old.Serial, fs.ErrExist)
		}
		if _, err := os.Stat(d.Path); err != nil {
			return fmt.Errorf("%w: %w", unikernel.ErrNotFound, err)
		}
		if unit < 0 || unit >= unikernel.MaxLUNs || d.Serial == "" {
			return fmt.Errorf("%w: unit %d, serial %q", unikernel.ErrInvalid, unit, d.Serial)
		}
		m.luns[unit] = d
		return nil
	})
	if err != nil {
		return err
	}
	return plugged
}

// Detach implements sandbox.Machines.
func (f *Machines) Detach(ctx context.Context, name string, d unikernel.Disk, unit int) error {
	if err := f.answer(ctx); err != nil {
		return err
	}
	if f.OnDetach != nil {
		if err := f.OnDetach(d); err != nil {
			return err
		}
	}
	return f.on(name, func(m *machine) error {
		delete(m.luns, unit)
		return nil
	})
}

// Disks are the serials of the disks that came to a machine and are there, by unit.
func (f *Machines) Disks(name string) map[int]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	serials := map[int]string{}
	if m := f.machines[name]; m != nil && !m.over() {
		for unit, d := range m.luns {
			serials[unit] = d.Serial
		}
	}
	return serials
}
