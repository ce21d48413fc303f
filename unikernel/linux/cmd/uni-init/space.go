package main

import (
	"os"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// diskOverhead is at most what a disk occupies on the host for other than files, in
// bytes: its journal of 16 MiB and its tables.
const diskOverhead = 32 << 20

// setSpace takes note of what the host has for the container's disk. It may come
// before the disk is mounted.
func (c *container) setSpace(space wire.Space) error {
	c.spaceMu.Lock()
	defer c.spaceMu.Unlock()
	c.space = &space
	return c.limitSpace()
}

// limitSpace reserves what the container's file system counts as free and the host
// does not have. Whoever writes more is told at once that there is no space left,
// and not after the write, when the host's disk refuses. The caller holds spaceMu.
func (c *container) limitSpace() error {
	if !c.mounted || c.sp.upper < 0 || c.space == nil {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(c.sp.upper, &st); err != nil {
		return pathError("statfs", upperDir, err)
	}
	// What the host has still to give for what is in memory here, and for the disk's
	// journal and tables, is not free.
	used := (int64(st.Blocks) - int64(st.Bfree)) * st.Bsize
	spare := int64(c.space.Held) - used
	have := max(int64(c.space.Free)-max(diskOverhead-spare, 0), 0) / st.Bsize
	reserve := max(int64(st.Bfree)-have, 0)
	if reserve > 0 && spare > diskOverhead {
		// What was deleted here goes back to the host when the journal is written,
		// which may be seconds away.
		if err := unix.Syncfs(c.sp.upper); err != nil {
			return os.NewSyscallError("syncfs", err)
		}
	}
	name := c.disks[c.Upper]
	return os.WriteFile("/sys/fs/ext4/"+name+"/reserved_clusters", []byte(formatUint(uint64(reserve))), 0)
}
