package task

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// spaceLeft is what the host has for the disks in dir, in bytes, beyond a reserve;
// it may be negative.
func spaceLeft(dir string, reserve int64) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail)*st.Bsize - reserve, nil
}

// checkSpace refuses a container for which the host has no disk space.
func (cr *creation) checkSpace() error {
	reserve := cr.cfg.Storage.MinFree
	left, err := spaceLeft(filepath.Dir(cr.names.Data), reserve)
	if err == nil && left < 0 {
		err = fmt.Errorf("no space left on device: %s has %d MiB free, and storage.min_free keeps %d: free some (uni cache prune), or lower storage.min_free",
			cr.cfg.Storage.DataDir, (left+reserve)>>20, reserve>>20)
	}
	return err
}

// tellSpace tells the guest how much the host has for what the container writes:
// now, and when that changes, until the container has ended. So the container sees
// a full host as it would see a full disk.
func (c *Container) tellSpace(ctx context.Context, in inGuest) {
	guest, ok := as[unikernel.Spacious](in)
	if !ok || !c.disks.writes() {
		return
	}
	last := c.tellSpaceOnce(ctx, guest, -1)
	go func() {
		for {
			period := spacePeriod
			if last > spacePlenty {
				period = 10 * spacePeriod
			}
			select {
			case <-c.exited:
				return
			case <-c.sandbox.Ended():
				return
			case <-time.After(period):
			}
			last = c.tellSpaceOnce(context.Background(), guest, last)
		}
	}()
}

// tellSpaceOnce returns what is free on the host. While there is plenty the guest
// is told of changes only.
func (c *Container) tellSpaceOnce(ctx context.Context, guest unikernel.Spacious, last int64) int64 {
	disk := c.names.writable()
	left, err := spaceLeft(filepath.Dir(disk), c.cfg.Storage.MinFree)
	if err != nil || left == last && left > spacePlenty {
		return last
	}
	held, ok := occupied(disk)
	if !ok {
		return last // it has just been removed
	}
	ctx, cancel := context.WithTimeout(ctx, spaceTimeout)
	defer cancel()
	if err := guest.Space(ctx, left, held); err != nil {
		c.log().WithError(err).Debug("the guest was not told of the host's disk space")
		return last
	}
	return left
}
