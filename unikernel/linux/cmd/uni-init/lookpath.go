package main

import (
	"strings"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// lookPath finds a program as os/exec.LookPath does, with its words, for those
// are what runc's users read. Package os/exec itself is too large for PID 1.
func lookPath(file, path string) (string, error) {
	if strings.Contains(file, "/") {
		if err := executable(file); err != nil {
			text := err.Error()
			if err == unix.ENOENT || err == unix.ENOTDIR {
				text = "stat " + file + ": " + text
			}
			return "", &failure{codeOf(err), "exec: " + quote(file) + ": " + text}
		}
		return file, nil
	}
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		found := strings.TrimSuffix(dir, "/") + "/" + file
		if executable(found) != nil {
			continue
		}
		if found[0] != '/' {
			return "", &failure{wire.CodeInvalid, "exec: " + quote(file) + ": cannot run executable found relative to current directory"}
		}
		return found, nil
	}
	return "", &failure{wire.CodeNotFound, "exec: " + quote(file) + ": executable file not found in $PATH"}
}

// executable tells why the calling user cannot execute a file.
func executable(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	err := unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
	if err == nil || err == unix.ENOSYS || err == unix.EPERM {
		if st.Mode&0o111 == 0 {
			return unix.EACCES
		}
		return nil
	}
	return err
}
