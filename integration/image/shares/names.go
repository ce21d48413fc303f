package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

var names = []expectation{
	{"rename over", func(dir string) error {
		err := errors.Join(os.WriteFile(dir+"/1", []byte("1"), 0o600), os.WriteFile(dir+"/2", []byte("2"), 0o600))
		old, err2 := os.Open(dir + "/2")
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		defer old.Close()
		err = os.Rename(dir+"/1", dir+"/2")
		text, err2 := os.ReadFile(dir + "/2")
		b := make([]byte, 1)
		_, err3 := old.Read(b)
		return errors.Join(err, err2, err3, want("text", string(text), "1"), want("text of the old one", b[0], '2'))
	}},
	{"rename, not over and exchanged", func(dir string) error {
		err := errors.Join(os.WriteFile(dir+"/1", []byte("1"), 0o600), os.WriteFile(dir+"/2", []byte("2"), 0o600))
		if err != nil {
			return err
		}
		if err := unix.Renameat2(unix.AT_FDCWD, dir+"/1", unix.AT_FDCWD, dir+"/2", unix.RENAME_NOREPLACE); !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("RENAME_NOREPLACE: %v", err)
		}
		err = unix.Renameat2(unix.AT_FDCWD, dir+"/1", unix.AT_FDCWD, dir+"/2", unix.RENAME_EXCHANGE)
		text, err2 := os.ReadFile(dir + "/1")
		return errors.Join(err, err2, want("text", string(text), "2"))
	}},
	{"O_EXCL", func(dir string) error {
		f, err := os.OpenFile(dir+"/f", os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		f.Close()
		if _, err := os.OpenFile(dir+"/f", os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("again: %v", err)
		}
		return nil
	}},
	{"O_TMPFILE", func(dir string) error {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/f", unix.AT_SYMLINK_FOLLOW)
	}},
	{"long and odd names", func(dir string) error {
		for _, name := range []string{strings.Repeat("n", 255), "new\nline", "\xff\xfe", "ä", "Ä", " "} {
			if err := os.WriteFile(dir+"/"+name, []byte(name), 0o600); err != nil {
				return err
			}
		}
		list, err := os.ReadDir(dir)
		return errors.Join(err, want("names", len(list), 6))
	}},
	{"500 names", func(dir string) error {
		for i := range 500 {
			if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600); err != nil {
				return err
			}
		}
		list, err := os.ReadDir(dir)
		if err := errors.Join(err, want("names", len(list), 500), os.RemoveAll(dir)); err != nil {
			return err
		}
		_, err = os.Stat(dir)
		return want("removed", errors.Is(err, os.ErrNotExist), true)
	}},
	{"links", func(dir string) error {
		err := errors.Join(os.Symlink("/a/sub/../nowhere", dir+"/l"))
		target, err2 := os.Readlink(dir + "/l")
		return errors.Join(err, err2, want("target", target, "/a/sub/../nowhere"))
	}},
	{"a program is executed", func(dir string) error {
		program := dir + "/shares"
		if err := copyOurselves(program); err != nil {
			return err
		}
		return exec.Command(program, "read", "/proc/self/stat").Run()
	}},
	{"a program that runs is not written to", func(dir string) error {
		program := dir + "/shares"
		if err := copyOurselves(program); err != nil {
			return err
		}
		cmd := exec.Command(program, "wait")
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		_, err = os.OpenFile(program, os.O_WRONLY, 0)
		in.Close()
		_ = cmd.Wait()
		if !errors.Is(err, unix.ETXTBSY) {
			return fmt.Errorf("%v, want %w", err, unix.ETXTBSY)
		}
		return nil
	}},
}

func copyOurselves(to string) error {
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
