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
func (sp *spawner) setSpace(space wire.Space) error {
	sp.spaceMu.Lock()
	defer sp.spaceMu.Unlock()
	sp.space, sp.spaceKnown = space, true
	if !sp.ready() {
		return nil
	}
	return sp.limitSpace()
}

// limitSpace reserves what the container's file system counts as free and the host
// does not have. Whoever writes more is told at once that there is no space left,
// and not after the write, when the host's disk refuses. The caller holds spaceMu.
func (sp *spawner) limitSpace() error {
	if sp.upper < 0 || !sp.spaceKnown {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(sp.upper, &st); err != nil {
		return pathError("statfs", upperDir, err)
	}
	// What the host has still to give for what is in memory here, and for the disk's
	// journal and tables, is not free.
	used := (int64(st.Blocks) - int64(st.Bfree)) * st.Bsize
	spare := int64(sp.space.Held) - used
	have := max(int64(sp.space.Free)-max(diskOverhead-spare, 0), 0) / st.Bsize
	reserve := max(int64(st.Bfree)-have, 0)
	if reserve > 0 && spare > diskOverhead {
		// What was deleted here goes back to the host when the journal is written,
		// which may be seconds away.
		if err := unix.Syncfs(sp.upper); err != nil {
			return os.NewSyscallError("syncfs", err)
		}
	}
	node := diskNode(serialWritable)
	if node == "" {
		return pathError("find", serialWritable, unix.ENOENT)
	}
	return os.WriteFile("/sys/fs/ext4/"+node[len("/dev/"):]+"/reserved_clusters", []byte(formatUint(uint64(reserve))), 0)
}
