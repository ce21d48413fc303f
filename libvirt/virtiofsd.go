package libvirt

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/qemufiles"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/thread"
)

// We start virtiofsd ourselves, and libvirt is told its socket: of the options
// that make a shared directory behave like a directory, libvirt knows only some.

// shareSocket is where QEMU meets the virtiofsd of a share.
func shareSocket(s *unikernel.Share) string { return s.Source + ".sock" }

// shareLog is what that virtiofsd says.
func shareLog(s *unikernel.Share) string { return s.Source + ".log" }

// helperName is the first argument of a machine's virtiofsd, by which it is
// found again without any state. Who looks for the program's name takes what
// follows the last slash, so there is none.
func helperName(t target, machine string) string {
	return "virtiofsd:" + machine + "@" + strings.ReplaceAll(t.root, "/", ":")
}

// virtiofsdArgs are the arguments of a virtiofsd that shares a directory and is
// given its listening socket as descriptor 3.
//
// Of several file systems each is told to the guest, which gives it a device
// number of its own: files of two are never taken for one. With extended
// attributes come file capabilities, and access lists, which both the guest and
// the host's file system then heed; but the guest's kernel has none on a mount it
// was told of (fs/fuse/inode.c, fuse_fill_super_submount, leaves out SB_POSIXACL),
// so that where there is one file system it is not told. A file of which the page
// cache is old is read again (cache=auto): the host sees what the guest writes at
// once, the guest what the host writes after a second at most.
func virtiofsdArgs(v qemufiles.Virtiofsd, s *unikernel.Share) []string {
	if v.InC() {
		options := "cache=auto,xattr,posix_acl"
		if s.Submounts {
			options += ",announce_submounts"
		}
		return []string{"--fd=3", "-o", "source=" + escapeOption(s.Source), "-o", options}
	}
	args := []string{"--fd=3", "--shared-dir=" + s.Source, "--cache=auto", "--xattr", "--posix-acl"}
	if s.Submounts {
		return append(args, "--announce-submounts")
	}
	return append(args, "--no-announce-submounts")
}

// escapeOption writes a value of a list of options that commas part.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(s)
}

// startVirtiofsd shares a directory with a machine whose QEMU runs as the
// account. The daemon, which has the given name, ends when QEMU does; one that
// QEMU never met is to be killed.
func startVirtiofsd(s *unikernel.Share, name string, a account) (*process, error) {
	v, err := qemufiles.FindVirtiofsd("")
	if err != nil {
		return nil, fmt.Errorf("%w: %w: %s", unikernel.ErrUnavailable, err, qemufiles.VirtiofsdAdvice)
	}
	listener, err := listenAs(shareSocket(s), a)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	log, err := os.OpenFile(shareLog(s), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var started *os.Process
	err = inMountNS(s.MountNS, func() (err error) {
		started, err = os.StartProcess(v.Binary, append([]string{name}, virtiofsdArgs(v, s)...), &os.ProcAttr{
			Dir: "/", Env: []string{}, Files: []*os.File{null, log, log, listener},
			Sys: &syscall.SysProcAttr{Setsid: true},
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", v.Binary, err)
	}
	p, err := openProcess(started.Pid)
	if err != nil {
		_ = started.Kill()
		_, _ = started.Wait()
		return nil, err
	}
	_ = started.Release() // p reaps it
	return p, nil
}

// inMountNS runs f in the mount namespace at a path, or without one here.
func inMountNS(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return thread.InMountNS(ns, f)
}

// listenAs makes a socket on which an account can call.
func listenAs(path string, a account) (*os.File, error) {
	if len(path) > socketMax {
		return nil, fmt.Errorf("%w: socket %q has more than %d bytes", unikernel.ErrInvalid, path, socketMax)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false) // virtiofsd listens on
	if os.Geteuid() == 0 {
		if err := os.Chown(path, a.uid, a.gid); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

// family takes hold of a process and its children: virtiofsd shuts itself away
// in a child. Of nil there is none.
func family(parent *process) []*process {
	if parent == nil {
		return nil
	}
	all := []*process{parent}
	for _, pid := range childrenOf(strconv.Itoa(parent.pid)) {
		if child, err := openProcess(pid); err == nil {
			all = append(all, child)
		}
	}
	return all
}

// findHelpers takes hold of the virtiofsd processes of a machine.
func findHelpers(t target, machine string) []*process {
	var found []*process
	for p := range allProcesses(func(args []string) bool { return len(args) > 0 && args[0] == helperName(t, machine) }) {
		found = append(found, p)
	}
	return found
}

// killHelpers ends the virtiofsd processes of a machine that is gone.
func killHelpers(ctx context.Context, t target, machine string) error {
	for _, h := range findHelpers(t, machine) {
		if err := kill(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// stopVirtiofsd ends one that no QEMU has met, and returns what it said last.
func stopVirtiofsd(p *process, log string) string {
	defer p.close()
	_ = p.signal(unix.SIGKILL)
	_, _ = p.wait()
	text, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte{'\n'})
	return string(lines[len(lines)-1])
}

// shareFiles are those that a share's daemon has beside the directory.
func shareFiles(s *unikernel.Share) []string {
	if s == nil {
		return nil
	}
	return []string{shareSocket(s), shareLog(s)}
}
