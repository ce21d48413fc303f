package libvirt

import (
	"fmt"

	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/unikernel"
)

// filesOf are the files of a machine that its QEMU opens again while it runs:
// to write a disk that it had opened for reading.
func filesOf(disks ...unikernel.Disk) ([]confine.File, error) {
	var files []confine.File
	for _, d := range disks {
		files = append(files, confine.File{Path: d.Path, ReadOnly: d.ReadOnly})
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

// confine takes from a QEMU whose guest has not begun all files of the host but
// the machine's disks. Where that cannot be, the log says so once and QEMU keeps
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
	files, err := filesOf(disks...)
	if err == nil && d.target.daemon {
		err = confine.Alone(pid)
	}
	if err == nil {
		err = d.enclose(pid, files)
	}
	if err != nil {
		return fmt.Errorf("keep the host's files from QEMU: %w", err)
	}
	return nil
}
