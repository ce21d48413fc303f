package task

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// makeNode makes a node of a block device of the host for a machine alone, so that its
// hypervisor can be given that device without a change to the host's own node.
func makeNode(path string, d specs.LinuxDevice) error {
	if _, err := os.Stat(fmt.Sprintf("/sys/dev/block/%d:%d", d.Major, d.Minor)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the host has no block device %d:%d, which the container is to have as %s", unikernel.ErrInvalid, d.Major, d.Minor, d.Path)
	}
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil {
		return fmt.Errorf("a node of the block device for %s: %w", d.Path, &fs.PathError{Op: "mknod", Path: path, Err: err})
	}
	return nil
}
