package libvirt

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/unikernel"
)

// filesOf are the files of disks.
func filesOf(disks ...unikernel.Disk) ([]confine.File, error) {
	var files []confine.File
	for _, d := range disks {
		files = append(files, confine.File{Path: d.Path, ReadOnly: d.ReadOnly, Device: d.Block})
		if d.Format != "qcow2" {
			continue
		}
		backing, err := backingFile(d.Path)
		if err != nil {
			return nil, err
		}
		if backing != "" {
			files = append(files, confine.File{Path: backing, ReadOnly: true})
		}
	}
	return files, nil
}

// written are those that QEMU opens again while it runs, to write what it had
// opened for reading. Others it has open for good.
func written(files []confine.File) []confine.File {
	return slices.DeleteFunc(files, func(f confine.File) bool { return f.ReadOnly })
}

// confine takes from a QEMU whose guest has not begun all files of the host but
// the disks that the machine writes, and bounds it. Where that cannot be, the log says so once and QEMU keeps
// them, unless the driver is strict.
func (d *Driver) confine(pid int, disks []unikernel.Disk) error {
	err := d.tryConfine(pid, disks)
	if err == nil || d.strict {
		return err
	}
	d.unconfined.Do(func() { d.log("%v; what is open to everybody on the host is open to QEMU's user", err) })
	return nil
}

func (d *Driver) tryConfine(pid int, disks []unikernel.Disk) error {
	if err := d.bound(pid); err != nil {
		return fmt.Errorf("bound QEMU: %w", err)
	}
	files, err := filesOf(disks...)
	if err == nil && d.target.daemon {
		err = confine.Alone(pid)
	}
	if err == nil {
		err = d.enclose(pid, written(files))
	}
	if err != nil {
		return fmt.Errorf("keep the host's files from QEMU: %w", err)
	}
	return nil
}

// maxThreads bounds those of a QEMU that has a user of its own. It has one a virtual
// CPU, 64 for blocking I/O at most (util/thread-pool.c), and less than ten others.
const maxThreads = 1024

// bound limits a daemon's QEMU as qemuConf has the embedded driver do it: no dumps of
// the guest's memory, and so many threads, of which the kernel counts all of a user.
// Root of some containers may not (CAP_SYS_RESOURCE): then the daemon's settings hold.
func (d *Driver) bound(pid int) error {
	if !d.target.daemon {
		return nil
	}
	limits := map[int]uint64{unix.RLIMIT_CORE: 0}
	if d.apart {
		limits[unix.RLIMIT_NPROC] = maxThreads
	}
	for resource, most := range limits {
		err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: most, Max: most}, nil)
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
