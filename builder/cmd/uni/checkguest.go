package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"containerd-shim-uni/builder/kernels"
	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"
)

const (
	installGuest = "run make install, or set the path in the configuration; a kernel of your own needs CONFIG_PVH"
	installNanos = "run uni kernel install nanos, or set nanos.kernel in the configuration"
)

func checkKernel(_ context.Context, h host, c config.Config) finding {
	path := c.Linux.Kernel
	f, err := os.Open(h.root + path)
	if err != nil {
		return fail(installGuest, "linux.kernel: %v", err)
	}
	defer f.Close()
	if err := kernels.CheckPVH(f); err != nil {
		return fail(installGuest, "linux.kernel %s: %v", path, err)
	}
	return ok("%s", path)
}

func checkInitrd(_ context.Context, h host, c config.Config) finding {
	info, err := os.Stat(h.root + c.Linux.Initrd)
	switch {
	case err != nil:
		return fail(installGuest, "linux.initrd: %v", err)
	case !info.Mode().IsRegular() || info.Size() == 0:
		return fail(installGuest, "linux.initrd %s is no file with contents", c.Linux.Initrd)
	}
	return ok("%s, %s", c.Linux.Initrd, human(info.Size()))
}

// checkNanos is about the other guest. It fails only where that guest is the
// configured one: containers may never ask for it.
func checkNanos(_ context.Context, h host, c config.Config) finding {
	bad := warn
	if c.Guest == config.GuestNanos {
		bad = fail
	}
	dir := c.Nanos.Kernel
	build, err := kernels.Examine(h.root + dir)
	switch {
	case errors.Is(err, unikernel.ErrNotFound) && c.Guest != config.GuestNanos && dir == c.Storage.CurrentNanos():
		return ok("not installed, and not needed by the guest %q (uni kernel install nanos)", c.Guest)
	case err != nil:
		return bad(installNanos, "nanos.kernel: %v", err)
	}
	if real, err := filepath.EvalSymlinks(h.root + dir); err == nil && dir == c.Storage.CurrentNanos() {
		dir = fmt.Sprintf("%s, version %s", dir, filepath.Base(real))
	}
	if build.Commit != "" {
		dir += fmt.Sprintf(", built from %.12s", build.Commit)
	}
	return ok("%s", dir)
}
