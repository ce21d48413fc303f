package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	lacks, source, err := kernels.CheckLinux(h.root+path, c.Linux.Machine)
	if err != nil {
		return warn("see docs/guest-kernel.md for what it must have", "linux.kernel %s: %v", path, err)
	}
	return judgeKernel(path, source, lacks)
}

// judgeKernel says what a kernel of the user's own is not able to do.
func judgeKernel(path, source string, lacks []kernels.Lack) finding {
	var missing, without []string
	for _, l := range lacks {
		name := l.Option
		if l.Module {
			name += " (as a module, which the guest does not load)"
		}
		if l.Without == "" {
			missing = append(missing, name)
		} else {
			without = append(without, l.Without+": "+name)
		}
	}
	const build = "build it in (docs/guest-kernel.md has the list), or take the kernel of make guest"
	switch {
	case len(missing) > 0:
		return fail(build, "linux.kernel %s has no %s, by %s", path, strings.Join(missing, ", "), source)
	case len(without) > 0:
		return warn(build, "linux.kernel %s does without %s, by %s", path, strings.Join(without, "; "), source)
	}
	return ok("%s, by %s", path, source)
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
