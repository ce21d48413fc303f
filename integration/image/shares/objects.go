package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// refused is an error unless a lock is held by somebody else.
func refused(err error) error {
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil
	}
	if err == nil {
		return errors.New("the lock was given twice")
	}
	return err
}

func ofd(f *os.File) error {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
}

// twice opens a file two times.
func twice(path string) (a, b *os.File, err error) {
	a, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		b, err = os.OpenFile(path, os.O_RDWR, 0o600)
	}
	return a, b, err
}

func nonBlocking(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

var locks = []expectation{
	{"flock within the container", func(dir string) error {
		a, b, err := twice(dir + "/f")
		if err != nil {
			return err
		}
		defer a.Close()
		defer b.Close()
		if err := nonBlocking(a); err != nil {
			return err
		}
		return refused(nonBlocking(b))
	}},
	{"flock that waits", func(dir string) error {
		a, b, err := twice(dir + "/f")
		if err != nil {
			return err
		}
		defer b.Close()
		if err := nonBlocking(a); err != nil {
			return err
		}
		go func() {
			time.Sleep(100 * time.Millisecond)
			a.Close()
		}()
		return unix.Flock(int(b.Fd()), unix.LOCK_EX)
	}},
	{"fcntl lock within the container", func(dir string) error {
		a, b, err := twice(dir + "/f")
		if err != nil {
			return err
		}
		defer a.Close()
		defer b.Close()
		if err := ofd(a); err != nil {
			return err
		}
		return refused(ofd(b))
	}},
	{"fcntl lock that waits", func(dir string) error {
		a, b, err := twice(dir + "/f")
		if err != nil {
			return err
		}
		defer b.Close()
		if err := ofd(a); err != nil {
			return err
		}
		go func() {
			time.Sleep(100 * time.Millisecond)
			a.Close()
		}()
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		return unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLKW, &lock)
	}},
	{"flock against the host", func(string) error { return againstHost(nonBlocking) }},
	{"fcntl lock against the host", func(string) error { return againstHost(ofd) }},
}

// againstHost tries to lock /a/locked, of which the host has both locks.
func againstHost(lock func(*os.File) error) error {
	f, err := os.OpenFile("/a/locked", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return refused(lock(f))
}

// accessList is an access list (the kernel's posix_acl_xattr.h) that lets one
// more user read and write.
func accessList(user uint32) []byte {
	const entry, mask = 0xffffffff, 6
	var b []byte
	b = binary.LittleEndian.AppendUint32(b, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, entry}, {2, 6, user}, {4, 0, entry}, {0x10, mask, entry}, {0x20, 0, entry}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// netBind is a file's capability cap_net_bind_service=ep (struct vfs_cap_data).
func netBind() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000000|1)
	b = binary.LittleEndian.AppendUint32(b, 1<<unix.CAP_NET_BIND_SERVICE)
	return append(b, make([]byte, 12)...)
}

var attributes = []expectation{
	{"extended attributes", func(dir string) error {
		path := dir + "/f"
		err := errors.Join(os.WriteFile(path, nil, 0o600), unix.Setxattr(path, "user.x", []byte("value"), 0))
		b := make([]byte, 100)
		n, err2 := unix.Getxattr(path, "user.x", b)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		return errors.Join(want("value", string(b[:n]), "value"), unix.Removexattr(path, "user.x"))
	}},
	{"access list", func(dir string) error {
		path := dir + "/f"
		err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, nil, 0o600), unix.Setxattr(path, "system.posix_acl_access", accessList(1234), 0))
		if err != nil {
			return err
		}
		return errors.Join(as(1234, "append", path), want("for others", as(5678, "read", path), error(syscall.EACCES)))
	}},
	{"default access list", func(dir string) error {
		err := errors.Join(os.Mkdir(dir+"/d", 0o755), unix.Setxattr(dir+"/d", "system.posix_acl_default", accessList(1234), 0), os.WriteFile(dir+"/d/f", nil, 0o666))
		if err != nil {
			return err
		}
		return errors.Join(os.Chmod(dir, 0o755), as(1234, "append", dir+"/d/f"))
	}},
	{"file capabilities", func(dir string) error {
		program := dir + "/shares"
		err := errors.Join(os.Chmod(dir, 0o755), copyOurselves(program), unix.Setxattr(program, "security.capability", netBind(), 0))
		if err != nil {
			return err
		}
		cmd := exec.Command(program, "capabilities")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w", out, err)
		}
		return nil
	}},
	{"a write takes file capabilities", func(dir string) error {
		path := dir + "/f"
		err := errors.Join(os.WriteFile(path, nil, 0o700), unix.Setxattr(path, "security.capability", netBind(), 0), os.WriteFile(path, []byte("x"), 0))
		if err != nil {
			return err
		}
		if _, err := unix.Getxattr(path, "security.capability", make([]byte, 100)); !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("%v, want %w", err, unix.ENODATA)
		}
		return nil
	}},
}

// dial sends a line to a socket and returns the answer.
func dial(path string) error {
	c, err := net.DialTimeout("unix", path, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	b := make([]byte, 1)
	_, err2 := io.ReadFull(c, b)
	return errors.Join(err, err2)
}

// watch returns an error unless inotify tells of what do does to a directory.
func watch(dir string, do func() error) error {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 2000)
	return errors.Join(err, want("events", n, 1))
}

var objects = []expectation{
	{"inotify of one's own changes", func(dir string) error {
		return watch(dir, func() error { return os.WriteFile(dir+"/f", nil, 0o600) })
	}},
	{"inotify of the host's changes", func(string) error {
		return watch("/a/watched", func() error { return ask("change") })
	}},
	{"socket within the container", func(dir string) error {
		l, err := net.Listen("unix", dir+"/s")
		if err != nil {
			return err
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = io.Copy(c, c)
			}
		}()
		return dial(dir + "/s")
	}},
	{"socket of the host", func(string) error { return dial("/a/host.sock") }},
	{"fifo within the container", func(dir string) error {
		if err := unix.Mkfifo(dir+"/p", 0o600); err != nil {
			return err
		}
		go func() { _ = os.WriteFile(dir+"/p", []byte("x"), 0) }()
		text, err := os.ReadFile(dir + "/p")
		return errors.Join(err, want("text", string(text), "x"))
	}},
	{"fifo to the host", func(string) error {
		f, err := os.OpenFile("/a/host.fifo", os.O_WRONLY|unix.O_NONBLOCK, 0) // ENXIO unless the host reads
		if err != nil {
			return err
		}
		return f.Close()
	}},
}

func write(path string) error { return os.WriteFile(path, nil, 0o600) }

var mounts = []expectation{
	{"what is mounted below is seen", func(string) error {
		_, err := os.Stat("/a/below/here")
		return err
	}},
	{"read-only", func(string) error {
		if err := write("/ro/x"); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("%v, want %w", err, unix.EROFS)
		}
		return nil
	}},
	{"what is mounted below a read-only mount is not", func(string) error { return write("/ro/below/x") }},
	{"mounted later, with rslave", func(string) error {
		if err := ask("mount"); err != nil {
			return err
		}
		return until("a file of what was mounted", func() bool {
			_, err := os.Stat("/later/new/file")
			return err == nil
		})
	}},
	{"mounted later, without", func(string) error {
		_, err := os.Stat("/private/new/file")
		return want("not there", errors.Is(err, os.ErrNotExist), true)
	}},
	{"unmounted later, with rslave", func(string) error {
		if err := ask("unmount"); err != nil {
			return err
		}
		return until("it is gone", func() bool {
			_, err := os.Stat("/later/new/file")
			return errors.Is(err, os.ErrNotExist)
		})
	}},
}
