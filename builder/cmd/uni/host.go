package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"containerd-shim-uni/libvirt/acl"
	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/libvirt/kvm"
)

// host is what the checks may ask of a machine. Tests have machines of their
// own; in those, files are below root.
type host struct {
	root string // of all paths, empty for the real one
	arch string // as runtime.GOARCH
	uid  int
	// probeKVM runs a virtual CPU.
	probeKVM func() error
	// probeMounts makes a mount namespace as one is made for QEMU.
	probeMounts func() error
	// probeLists says why the file system of a path has no access lists.
	probeLists func(path string) error
	// output runs a program and returns what it printed.
	output func(ctx context.Context, program string, args ...string) (string, error)
}

func realHost() host {
	return host{
		arch: runtime.GOARCH, uid: os.Geteuid(), output: output,
		probeKVM: func() error { return kvm.Probe(kvm.Device) }, probeMounts: confine.Possible, probeLists: acl.SupportedFor,
	}
}

// programDirs is where programs are looked up: $PATH as a service manager sets
// it, which is what containerd has, not the operator's.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// find returns the path of an executable, empty for none.
func (h host) find(name string) string {
	for _, dir := range programDirs {
		path := filepath.Join(dir, name)
		if h.executable(path) {
			return path
		}
	}
	return ""
}

func (h host) executable(path string) bool {
	info, err := os.Stat(h.root + path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// hasUser says whether the password file names a user.
func (h host) hasUser(name string) bool {
	data, err := os.ReadFile(h.root + "/etc/passwd")
	return err == nil && bytes.Contains(append([]byte("\n"), data...), []byte("\n"+name+":"))
}

// closed says whether a file may be read and written by its owner alone.
func (h host) closed(path string) bool {
	info, err := os.Stat(h.root + path)
	return err == nil && info.Mode()&0o060 != 0o060 && info.Mode()&0o006 != 0o006
}

func (h host) exists(path string) bool {
	_, err := os.Stat(h.root + path)
	return err == nil
}

func (h host) read(path string) (string, error) {
	data, err := os.ReadFile(h.root + path)
	return string(data), err
}

// glob returns matching paths, without h.root.
func (h host) glob(pattern string) []string {
	matches, _ := filepath.Glob(h.root + pattern) // only a bad pattern is an error
	for i, m := range matches {
		matches[i] = strings.TrimPrefix(m, h.root)
	}
	return matches
}

// runLimit bounds a program that only prints its version.
const runLimit = 10 * time.Second

func output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	if said := strings.TrimSpace(stderr.String()); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return "", err
}

// firstLine is the part of a program's output that names its version.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
