// The machine has no limits that the Go runtime would have to look for, and
// its CPUs do not change.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// Where uni-init's own root (the initramfs) holds things. The application
// cannot see any of it. All but the last two are each container's own, for they are
// mounted in its mount namespace.
const (
	lowerDir   = "/lower"   // the image
	upperDir   = "/upper"   // the writable layer's file system
	rootDir    = "/root"    // the overlay of both
	shareDir   = "/share"   // sources of bind mounts
	volumesDir = "/volumes" // others, in memory: see volumes.go
)

// portName is the name of the virtio-serial port to the host.
const portName = "uni.ctl"

func init() {
	// The first thread stays the main goroutine's: what stage2 sets for a
	// thread (user, capabilities) must hold for the one that calls execve.
	runtime.LockOSThread()
}

func main() {
	if os.Args[0] == stage2Name {
		stage2()
		return
	}
	if os.Args[0] == keeperName {
		keeper()
	}
	if os.Getpid() != 1 {
		os.Stderr.WriteString("uni-init: must be PID 1 of a virtual machine\n")
		os.Exit(1)
	}
	// Memory is the application's; a collection of this small heap is cheap.
	debug.SetGCPercent(25)
	if err := boot(); err != nil {
		console("boot: " + err.Error())
		powerOff()
	}
	port, err := openPort(portName)
	if err != nil {
		console("control port: " + err.Error())
		powerOff()
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	s := newServer(port)
	go s.reap(children)
	err = s.serve()
	// The host's end is closed: nobody is left to take output or the exit.
	console("host is gone: " + err.Error())
	s.quiesce()
	powerOff()
}

// boot makes the kernel's own file systems available.
func boot() error {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID},
	} {
		os.Mkdir(m.target, 0o755)
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, ""); err != nil {
			return &os.PathError{Op: "mount", Path: m.target, Err: err}
		}
	}
	for _, dir := range []string{lowerDir, upperDir, rootDir, shareDir} {
		os.Mkdir(dir, 0o755)
	}
	raiseLimits()
	// What waits for all processors to have been elsewhere, as making and leaving
	// namespaces, mounts and cgroups does, asks them instead of waiting for a few ticks
	// (RCU/whatisRCU and kernel-parameters, rcu_expedited, in the kernel's documentation):
	// 10 ms each. Kernels without the file have one processor and do not wait.
	os.WriteFile("/sys/kernel/rcu_expedited", []byte("1"), 0)
	return loopbackUp()
}

// loopbackUp sets the interface lo up; the kernel then gives it its addresses.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("lo up", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// openPort opens the virtio-serial port of that name, as soon as the host has
// told the kernel its name.
func openPort(name string) (*os.File, error) {
	const ports = "/sys/class/virtio-ports"
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		entries, _ := os.ReadDir(ports)
		for _, e := range entries {
			b, err := os.ReadFile(ports + "/" + e.Name() + "/name")
			if err == nil && trimLine(b) == name {
				return os.OpenFile("/dev/"+e.Name(), os.O_RDWR, 0)
			}
		}
		if time.Since(start) > 10*time.Second {
			return nil, &os.PathError{Op: "find", Path: name, Err: unix.ENOENT}
		}
	}
}

func trimLine(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	return string(b)
}

// console writes a line to the machine's console, for diagnosis.
func console(text string) { os.Stderr.WriteString("uni-init: " + text + "\n") }

// powerOff ends the machine. A reset is what each machine type has (microvm
// may lack ACPI); the domain is told to take it as its end.
func powerOff() {
	for {
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		time.Sleep(time.Second)
	}
}
