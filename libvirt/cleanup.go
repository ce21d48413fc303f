package libvirt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/unikernel"
)

// CleanUp ends a machine by its name alone, after the process that ran it died
// at whatever point: `shim delete` needs no state. Only URI, EmbedRoot and Log
// of the options matter. Nothing there is not an error.
//
// With the daemon it is Destroy; without it QEMU is killed, and the daemon
// finds out when it starts. An embedded driver died with its process, and
// nothing but the processes and the files below its root is left of it: they
// are found by libvirt's pid files, their own command lines and the machine's
// user, killed and removed, without starting libvirt again. The root must be
// this machine's alone, or the machine the last one in it; else only the machine
// is ended.
func CleanUp(ctx context.Context, opts Options, name string) error {
	t, err := parseTarget(opts.URI, opts.EmbedRoot)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	if t.embedded() {
		return cleanUpEmbedded(ctx, t, opts.identities(), name)
	}
	opts.Accel = AccelTCG // no need to know
	d, err := Open(ctx, opts)
	if errors.Is(err, unikernel.ErrUnavailable) {
		err = errors.Join(kill(ctx, findQEMU(t, name)), killUser(ctx, opts.identities(), t.owner(name)), killHelpers(ctx, t, name))
		return errors.Join(err, returnIdentity(opts.identities(), t.owner(name)))
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Destroy(ctx, name), d.Close())
}

func cleanUpEmbedded(ctx context.Context, t target, identities, name string) error {
	if err := kill(ctx, findQEMU(t, name)); err != nil {
		return err
	}
	if err := killUser(ctx, identities, t.owner(name)); err != nil {
		return err
	}
	if err := killHelpers(ctx, t, name); err != nil {
		return err
	}
	if err := returnIdentity(identities, t.owner(name)); err != nil {
		return err
	}
	if runningIn(t) {
		return nil
	}
	for p := range allProcesses(func(args []string) bool { return isProbeOf(args, t.lib) }) {
		if err := kill(ctx, p); err != nil {
			return err
		}
	}
	return removeEmbed(t.root)
}

// hasMachines is runningIn for the process that has the driver: their QEMUs are its
// children, or those of a process that ended and are in libvirt's pid files. On a busy
// host it takes long to look at every process.
func (d *Driver) hasMachines() bool {
	pids := children()
	files, _ := filepath.Glob(filepath.Join(d.target.state, "*.pid")) // the pattern is right
	for _, f := range files {
		pids = append(pids, readPid(f))
	}
	return slices.ContainsFunc(pids, func(pid int) bool { return isMachineOf(arguments(pid), d.target.lib) })
}

// runningIn tells whether a machine of this embedded driver runs.
func runningIn(t target) bool {
	for p := range allProcesses(func(args []string) bool { return isMachineOf(args, t.lib) }) {
		p.close()
		return true
	}
	return false
}

// kill ends a process and waits for its end. It closes the handle.
func kill(ctx context.Context, p *process) error {
	if p == nil {
		return nil
	}
	defer p.close()
	if err := p.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	if _, err := p.waitContext(ctx); err != nil {
		return fmt.Errorf("killed process %d does not end: %w", p.pid, err)
	}
	return nil
}
