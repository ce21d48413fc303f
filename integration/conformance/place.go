package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
)

// inside is set for the part of a program that runs tests.
const inside = "UNI_CONFORMANCE_INSIDE"

// ErrSaid is the failure of the part inside, which has said why.
var ErrSaid = errors.New("the tests' part failed")

// Inside says that the program is the part that GoInside started.
func Inside() bool { return os.Getenv(inside) != "" }

// GoInside runs this program once more, to its end, in a network namespace of its
// own where nothing but loopback is.
func GoInside(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %w", ErrSaid, err)
	}
	return nil
}

// Loopback brings the namespace's only link up.
func Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// StateDir is the runtime's, for a run below a directory.
func StateDir(dir string) string { return "/run/" + filepath.Base(dir) }

// Environment is what a containerd and its shims run with, for a run below dir and
// the checkout's programs.
func Environment(dir, cache, version string) ([]string, error) {
	out, err := filepath.Abs("out")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "uni.toml")
	text := fmt.Sprintf("[linux]\nkernel = %q\ninitrd = %q\n[storage]\nstate_dir = %q\ndata_dir = %q\n",
		out+"/guest/vmlinux", out+"/guest/initrd.img", StateDir(dir), filepath.Join(dir, "lib"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	path := strings.Join([]string{filepath.Join(out, "bin"), filepath.Join(cache, "peers", version), os.Getenv("PATH")}, ":")
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") })
	return append(env, "PATH="+path, "UNI_CONFIG="+config), nil
}
