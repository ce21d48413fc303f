package builder

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"containerd-shim-uni/unikernel"
)

// defaultPath is searched without a PATH, as by glibc's execvp(3).
const defaultPath = "/bin:/usr/bin"

// findProgram returns the path of the program that a configuration names.
func findProgram(v *view, c unikernel.BootConfig) (string, error) {
	name := c.Args[0]
	if strings.Contains(name, "/") {
		if !strings.HasPrefix(name, "/") {
			name = path.Join("/", c.Cwd, name)
		}
		f, err := v.find(name)
		if err != nil || f.missing {
			return "", fmt.Errorf("exec: %q: stat %s: no such file or directory: %w", c.Args[0], name, unikernel.ErrNotFound)
		}
		return name, checkProgram(f, name)
	}
	for _, dir := range strings.Split(searchPath(c.Env), ":") {
		if !strings.HasPrefix(dir, "/") {
			dir = path.Join("/", c.Cwd, dir)
		}
		full := path.Join(dir, name)
		if f, err := v.find(full); err == nil && f.isRegular() {
			return full, checkProgram(f, full)
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH: %w", name, unikernel.ErrNotFound)
}

func searchPath(env []string) string {
	found := defaultPath
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			found = value
		}
	}
	return found
}

// checkProgram refuses what the kernel would halt on.
func checkProgram(f place, name string) error {
	if !f.isRegular() {
		return fmt.Errorf("exec: %s: is no regular file: %w", name, unikernel.ErrInvalid)
	}
	r, done, err := f.open()
	if err != nil {
		return err
	}
	defer done()
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	switch {
	case string(head) == "\x7fELF":
		return nil
	case string(head[:2]) == "#!":
		return fmt.Errorf("exec: %s: %w: it is a script, and this guest cannot start another program to run it; name the interpreter, or use the guest \"linux\"",
			name, unikernel.ErrNotImplemented)
	}
	return fmt.Errorf("exec: %s: exec format error: %w", name, unikernel.ErrInvalid)
}
