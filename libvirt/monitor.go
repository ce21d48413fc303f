package libvirt

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// monitorSocket is the name that libvirt gives the socket of a QEMU's monitor, in the
// machine's directory.
const monitorSocket = "monitor.sock"

// heldMonitor returns a second descriptor of QEMU's end of its monitor, nil where that
// cannot be had. While it is open libvirt is not told that QEMU ends: it would be before
// the kernel is done with the process, signal it, find it still there, and sleep for
// 200 ms (virProcessKillPainfully).
func heldMonitor(qemu *process) *os.File {
	entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(qemu.pid), "fd"))
	if err != nil {
		return nil
	}
	raw, err := qemu.file.SyscallConn()
	if err != nil {
		return nil
	}
	for _, e := range entries {
		number, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fd := -1
		cerr := raw.Control(func(pidfd uintptr) { fd, err = unix.PidfdGetfd(int(pidfd), number, 0) })
		switch {
		case cerr != nil || err != nil:
		case isMonitor(fd):
			return os.NewFile(uintptr(fd), monitorSocket)
		default:
			_ = unix.Close(fd) // it was only looked at
		}
	}
	return nil
}

// isMonitor tells whether a descriptor is the connection that a QEMU has accepted on
// its monitor's socket: it has the name of that.
func isMonitor(fd int) bool {
	name, err := unix.Getsockname(fd)
	local, ok := name.(*unix.SockaddrUnix)
	if err != nil || !ok || filepath.Base(local.Name) != monitorSocket {
		return false
	}
	_, err = unix.Getpeername(fd)
	return err == nil
}
