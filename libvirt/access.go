package libvirt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/acl"
	"containerd-shim-uni/libvirt/kvm"
	"containerd-shim-uni/unikernel"
)

// grant makes a machine's files accessible to QEMU's user and checks that it
// can reach them. libvirt relabels nothing, see security, so this is the whole
// of it:
//   - a disk that is written belongs to that user, and is closed to all others;
//   - a disk that is read, and a backing file, is opened to the user alone until
//     QEMU has opened it, see lease.Reads. Where files have no access lists, it is
//     opened to the user's group, and stays so for the other machines that use it;
//   - kernel and initrd are the installation's and must be readable, or the
//     machine's own and treated as a disk that is read;
//   - directories are the caller's and must be searchable.
func grant(m unikernel.Machine, a account) error {
	for _, path := range []string{m.Kernel, m.Initrd} {
		if path == "" {
			continue
		}
		if err := reachable(path, a); err != nil {
			return err
		}
		if m.OwnKernel {
			if err := letRead(path, a); err != nil {
				return err
			}
		}
		if !m.OwnKernel && !a.allowed(path, unix.R_OK) {
			return fmt.Errorf("%w: QEMU's user %s cannot read %s", unikernel.ErrInvalid, a.name, path)
		}
	}
	for _, d := range m.Disks {
		if err := grantDisk(d, a); err != nil {
			return fmt.Errorf("disk %s: %w", d.Serial, err)
		}
	}
	return nil
}

func grantDisk(d unikernel.Disk, a account) error {
	kind := fs.FileMode(0)
	if d.Block {
		kind = fs.ModeDevice
	}
	if err := reachableAs(d.Path, a, kind); err != nil {
		return err
	}
	if d.ReadOnly {
		if err := letRead(d.Path, a); err != nil {
			return err
		}
	} else if os.Geteuid() == 0 && a.uid != 0 || !a.allowed(d.Path, unix.R_OK|unix.W_OK) { // not by its group or the mode for all
		if err := errors.Join(os.Chown(d.Path, a.uid, a.gid), os.Chmod(d.Path, 0o600)); err != nil {
			return err
		}
	}
	if d.Format != "qcow2" {
		return nil
	}
	backing, err := backingFile(d.Path)
	if err != nil || backing == "" {
		return err
	}
	if err := reachable(backing, a); err != nil {
		return err
	}
	return letRead(backing, a)
}

// letRead lets the account read a file, if it cannot.
func letRead(path string, a account) error {
	switch {
	case a.allowed(path, unix.R_OK):
		return nil
	case a.lists:
		return acl.Allow(path, a.uid, acl.Read)
	}
	return openToGroup(path, a)
}

// readsOf are files that are closed to a machine's user but while its QEMU starts,
// or takes the disks: those that it reads. What is missing, grant reports.
func readsOf(disks ...unikernel.Disk) []string {
	var paths []string
	for _, d := range disks {
		files, _ := filesOf(d)
		for _, f := range files {
			if f.ReadOnly {
				paths = append(paths, f.Path)
			}
		}
	}
	return paths
}

// reads are a machine's.
func (d *Driver) reads(m unikernel.Machine) []string {
	if !d.account.lists {
		return nil
	}
	paths := readsOf(m.Disks...)
	if m.OwnKernel {
		paths = append(paths, m.Kernel, m.Initrd)
	}
	if d.host.KVM {
		paths = append(paths, kvm.Device)
	}
	return slices.DeleteFunc(paths, func(path string) bool { return path == "" })
}

// admitTo is grant, and opens KVM's device to a machine's own user.
func (d *Driver) admitTo(m unikernel.Machine, a account) error {
	if !a.lists {
		return grant(m, a)
	}
	unlock, err := lockIdentities(d.identities) // of two who change one list, one would be lost
	if err != nil {
		return err
	}
	defer unlock()
	if d.host.KVM && !a.allowed(kvm.Device, unix.R_OK|unix.W_OK) {
		if err := acl.Allow(kvm.Device, a.uid, acl.Read|acl.Write); err != nil {
			return err
		}
	}
	return grant(m, a)
}

// closeReads takes from a machine's user what it reads, when QEMU has that open.
func (d *Driver) closeReads(machine string) error {
	if !d.account.lists {
		return nil
	}
	err := withIdentity(d.identities, d.target.owner(machine), func(id *lease) error {
		return id.closeReads() // the record may say more than is
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended
	}
	return err
}

// openToGroup lets the account's group read a file.
func openToGroup(path string, a account) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(path, -1, a.gid), os.Chmod(path, info.Mode().Perm()|0o040))
}

// reachable checks that a regular file exists and that the account may pass through
// all directories above it.
func reachable(path string, a account) error { return reachableAs(path, a, 0) }

// reachableAs is reachable for a file of a type, such as fs.ModeDevice for a block device.
func reachableAs(path string, a account, kind fs.FileMode) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s does not exist", unikernel.ErrNotFound, path)
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != kind {
		what := map[fs.FileMode]string{0: "regular file", fs.ModeDevice: "block device"}[kind]
		return fmt.Errorf("%w: %s is not a %s", unikernel.ErrInvalid, path, what)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if !a.allowed(dir, unix.X_OK) {
			return fmt.Errorf("%w: QEMU's user %s cannot pass through %s to %s (chmod o+x, or g+x for its group)",
				unikernel.ErrInvalid, a.name, dir, path)
		}
		if dir == "/" {
			return nil
		}
	}
}

// backingFile returns the backing file of a qcow2 image, "" if it has none
// (QEMU, docs/interop/qcow2.txt: at byte 8 the offset of its name, at 16 the
// name's length, at most 1023).
func backingFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var head [20]byte
	if _, err := io.ReadFull(f, head[:]); err != nil || string(head[:4]) != "QFI\xfb" {
		return "", fmt.Errorf("%w: %s is not a qcow2 image", unikernel.ErrInvalid, path)
	}
	offset, size := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint32(head[16:])
	if offset == 0 || size == 0 {
		return "", nil
	}
	if size > 1023 || offset > 1<<20 {
		return "", fmt.Errorf("%w: %s names its backing file at byte %d in %d bytes", unikernel.ErrInvalid, path, offset, size)
	}
	name := make([]byte, size)
	if _, err := f.ReadAt(name, int64(offset)); err != nil {
		return "", fmt.Errorf("backing file of %s: %w", path, err)
	}
	if backing := string(name); filepath.IsAbs(backing) {
		return backing, nil
	}
	return filepath.Join(filepath.Dir(path), string(name)), nil
}
