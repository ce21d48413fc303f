package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// setSpace takes note of what the host has for the container's disk. It may come
// before the disk is mounted.
func (sp *spawner) setSpace(free uint64) error {
	sp.spaceMu.Lock()
	defer sp.spaceMu.Unlock()
	sp.space, sp.spaceKnown = free, true
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
	reserve := uint64(0)
	if have := sp.space / uint64(st.Bsize); have < st.Bfree {
		reserve = st.Bfree - have
	}
	node := diskNode(serialWritable)
	if node == "" {
		return pathError("find", serialWritable, unix.ENOENT)
	}
	return os.WriteFile("/sys/fs/ext4/"+node[len("/dev/"):]+"/reserved_clusters", []byte(formatUint(reserve)), 0)
}
