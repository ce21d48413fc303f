package main

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func stat(path string) (st unix.Stat_t, err error) {
	err = unix.Lstat(path, &st)
	return st, err
}

// same says whether two names are of one file, as programs like cp see it.
func same(a, b string) (bool, error) {
	x, err := stat(a)
	y, err2 := stat(b)
	return x.Dev == y.Dev && x.Ino == y.Ino, errors.Join(err, err2)
}

func wantSame(a, b string, yes bool) error {
	is, err := same(a, b)
	return errors.Join(err, want(a+" and "+b+" are the same file", is, yes))
}

func sameDevice(a, b string) (bool, error) {
	x, err := stat(a)
	y, err2 := stat(b)
	return x.Dev == y.Dev, errors.Join(err, err2)
}

func wantDevice(a, b string, yes bool) error {
	is, err := sameDevice(a, b)
	return errors.Join(err, want(a+" and "+b+" are on one file system", is, yes))
}

var identity = []expectation{
	{"identity of two file systems", func(string) error { return wantDevice("/a", "/b", false) }},
	{"identity of single files of two file systems", func(string) error { return wantDevice("/one", "/two", false) }},
	{"identity of what is mounted below", func(string) error { return wantDevice("/a", "/a/below", false) }},
	{"identity of a file in two mounts", func(string) error {
		if err := os.WriteFile("/a/sub/file", nil, 0o600); err != nil {
			return err
		}
		return wantSame("/a/sub/file", "/sub/file", true)
	}},
	{"identity of a file in a read-only mount", func(dir string) error {
		if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
			return err
		}
		return wantSame(dir+"/file", "/ro"+dir[2:]+"/file", true)
	}},
	{"hard link", func(dir string) error {
		if err := errors.Join(os.WriteFile(dir+"/1", []byte("x"), 0o600), os.Link(dir+"/1", dir+"/2")); err != nil {
			return err
		}
		st, err := stat(dir + "/2")
		return errors.Join(err, want("number of links", st.Nlink, 2), wantSame(dir+"/1", dir+"/2", true))
	}},
	{"times", func(dir string) error {
		when := time.Unix(1234567890, 123456789)
		err := errors.Join(os.WriteFile(dir+"/f", nil, 0o600), os.Chtimes(dir+"/f", when, when))
		info, err2 := os.Stat(dir + "/f")
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		return want("time of change", info.ModTime().UnixNano(), when.UnixNano())
	}},
	{"time of change moves on", func(dir string) error {
		if err := os.WriteFile(dir+"/f", nil, 0o600); err != nil {
			return err
		}
		before, err := stat(dir + "/f")
		time.Sleep(50 * time.Millisecond)
		err = errors.Join(err, os.WriteFile(dir+"/f", []byte("x"), 0o600))
		after, err2 := stat(dir + "/f")
		return errors.Join(err, err2, want("later", after.Mtim.Nano() > before.Mtim.Nano(), true))
	}},
	{"ownership", func(dir string) error {
		err := errors.Join(os.WriteFile(dir+"/f", nil, 0o600), os.Chown(dir+"/f", 1234, 5678), os.Chmod(dir+"/f", 0o641))
		st, err2 := stat(dir + "/f")
		return errors.Join(err, err2, want("owner", st.Uid, 1234), want("group", st.Gid, 5678), want("mode", st.Mode&0o7777, 0o641))
	}},
	{"permissions are kept", func(dir string) error {
		if err := errors.Join(os.WriteFile(dir+"/f", nil, 0o600), os.Chmod(dir, 0o755)); err != nil {
			return err
		}
		return errors.Join(want("read by another user", as(1234, "read", dir+"/f"), error(syscall.EACCES)))
	}},
	{"a write takes the set-user-ID bit", func(dir string) error {
		if err := errors.Join(os.WriteFile(dir+"/f", nil, 0o666), os.Chmod(dir+"/f", 0o4777), os.Chown(dir+"/f", 1234, 1234), os.Chmod(dir+"/f", 0o4777), os.Chmod(dir, 0o777)); err != nil {
			return err
		}
		err := as(5678, "append", dir+"/f")
		st, err2 := stat(dir + "/f")
		return errors.Join(err, err2, want("mode", st.Mode&0o7777, 0o777))
	}},
}
