package main

import (
	"os"
	"strings"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// setupSandbox sets up what is the machine's and not a container's.
func (s *server) setupSandbox(b *wire.Sandbox) error {
	if err := s.clock.correct(time.Duration(b.Clock.Behind)); err != nil {
		return wrap("set the clock", err)
	}
	if err := setNames(b); err != nil {
		return err
	}
	if err := setNetwork(&b.Network); err != nil {
		return wrap("network", err)
	}
	if err := setSysctls(b.Sysctls); err != nil {
		return err
	}
	if b.ShareTag != "" {
		if err := unix.Mount(b.ShareTag, shareDir, "virtiofs", 0, ""); err != nil {
			return pathError("mount shared directory", b.ShareTag, err)
		}
	}
	if err := mountDevices(); err != nil {
		return err
	}
	return mountCgroups()
}

// setNames sets the names of the machine, which its containers share.
func setNames(b *wire.Sandbox) error {
	if b.Hostname != "" {
		if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	if b.Domainname != "" {
		if err := unix.Setdomainname([]byte(b.Domainname)); err != nil {
			return os.NewSyscallError("setdomainname", err)
		}
	}
	return nil
}

// setSysctls writes kernel parameters; their names come with dots or slashes.
func setSysctls(list [][2]string) error {
	for _, kv := range list {
		path := "/proc/sys/" + strings.ReplaceAll(kv[0], ".", "/")
		if err := os.WriteFile(path, []byte(kv[1]), 0); err != nil {
			return &failure{wire.CodeInvalid, "sysctl " + kv[0] + ": " + err.Error()}
		}
	}
	return nil
}
