package standin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel/thread"

	"golang.org/x/sys/unix"
)

// name is the stand-in's, in its root and for who lists processes; the kernel
// shows 15 bytes of it (TASK_COMM_LEN - 1).
const name = "uni-container"

// namespaces are what a stand-in has of its own. The network's is the
// container's; it needs no cgroup's, since what it would show is the reader's
// choice, and user namespaces are refused for containers.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// Start starts a stand-in in the network namespace at path; title is what its
// command line shows beside its name. It ends, and is
// reaped, at the call of end; and it ends with this process, however that comes
// about. A path that is no network namespace is os.ErrNotExist.
func Start(path, title string) (pid int, end func(), err error) {
	netns, err := os.Open(path)
	if err != nil {
		return 0, nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer netns.Close()
	alive, hold, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer alive.Close()
	var process *os.Process
	err = thread.Discard(func() error {
		err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET)
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("%s is not a network namespace: %w", path, os.ErrNotExist)
		}
		if err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		process, err = start(alive, title)
		return err
	})
	if process == nil {
		hold.Close()
		return 0, nil, fmt.Errorf("start the process that stands for the container: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = process.Wait() // however it ends, it has done its work
		hold.Close()
	}()
	end = func() {
		_ = process.Kill() // it may have ended
		<-ended
	}
	if err != nil {
		end()
		return 0, nil, err
	}
	return process.Pid, end, nil
}

// start gives the calling thread an empty root and starts the program there. A
// process may be returned beside an error.
func start(alive *os.File, title string) (*os.Process, error) {
	if err := emptyRoot(); err != nil {
		return nil, fmt.Errorf("make an empty root: %w", err)
	}
	process, err := execute(&os.ProcAttr{
		Env:   []string{},
		Files: []*os.File{alive},
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID},
	}, title)
	if err != nil {
		return nil, err
	}
	// The kernel may still be loading the program: execve has closed the pipe that
	// StartProcess waits for before it maps the file. So nothing that follows may
	// forbid that, as MS_NOEXEC would; in an empty root that cannot be written there
	// is nothing to execute anyway.
	if err := unix.Unlink("/" + name); err != nil {
		return process, fmt.Errorf("empty its root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return process, fmt.Errorf("make its root read-only: %w", err)
	}
	return process, nil
}

// busyTimeout bounds waiting for children of other threads to execute something.
const busyTimeout = 5 * time.Second

// execute starts the program. What another thread forked while it was being written,
// as libvirt does, has the file open until it executes something else: so long the
// kernel takes the program for one that is still written.
func execute(attr *os.ProcAttr, title string) (*os.Process, error) {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		process, err := os.StartProcess("/"+name, []string{name, title}, attr)
		if !errors.Is(err, unix.ETXTBSY) || time.Since(began) > busyTimeout {
			return process, err
		}
	}
}

// emptyRoot moves the calling thread to a file system that holds the program
// alone, and lets go of all others. Only a thread that ends then may call it.
func emptyRoot() error {
	const place = "/proc" // any directory that every host has
	if err := unix.Unshare(namespaces); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(name, place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,nr_blocks=1,nr_inodes=2"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	if err := os.WriteFile(filepath.Join(place, name), program(), 0o700); err != nil {
		return err
	}
	if err := unix.Chdir(place); err != nil {
		return err
	}
	// The old root ends up on top of the new one, see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's root: %w", err)
	}
	return unix.Chdir("/")
}
