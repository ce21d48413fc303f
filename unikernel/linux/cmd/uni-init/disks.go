package main

import (
	"os"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// Serials of the disks, as package unikernel names them; importing it would
// link the whole OCI specification into PID 1.
const (
	serialRoot     = "root"
	serialWritable = "writable"
)

// diskTimeout is how long a disk may take to appear.
const diskTimeout = 10 * time.Second

// mountRoot mounts the image and its writable layer on rootDir, and the shared
// directory, in the calling thread's mount namespace.
func mountRoot(c *wire.Container) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return pathError("make private", "/", err)
	}
	if err := mountDisk(serialRoot, lowerDir, "erofs", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if c.Writable {
		// Nothing is gained by initializing tables in the background. What is
		// deleted goes back to the host. A file's data that cannot be written
		// ends all writing: the program shall not go on as if it had been.
		if err := mountDisk(serialWritable, upperDir, "ext4", unix.MS_NOATIME, "noinit_itable,discard,errors=remount-ro,data_err=abort"); err != nil {
			return err
		}
	} else if err := unix.Mount("tmpfs", upperDir, "tmpfs", 0, "mode=0755"); err != nil {
		return pathError("mount", upperDir, err)
	}
	for _, dir := range []string{upperDir + "/upper", upperDir + "/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
	}
	if err := sameRoot(lowerDir, upperDir+"/upper"); err != nil {
		return err
	}
	// Where the layer goes to the host it must be one that any overlay can use,
	// so a directory of the image cannot be renamed (EXDEV), as under runc.
	options := "lowerdir=" + lowerDir + ",upperdir=" + upperDir + "/upper,workdir=" + upperDir + "/work,xino=auto"
	if c.Writable {
		options += ",redirect_dir=follow"
	} else {
		options += ",redirect_dir=on,volatile"
	}
	if err := unix.Mount("overlay", rootDir, "overlay", 0, options); err != nil {
		return pathError("mount", rootDir, err)
	}
	if c.ShareTag != "" {
		if err := unix.Mount(c.ShareTag, shareDir, "virtiofs", 0, ""); err != nil {
			return pathError("mount shared directory", c.ShareTag, err)
		}
	}
	return nil
}

// sameRoot gives the top of the upper layer the owner and mode of the image's:
// an overlay shows the upper one's.
func sameRoot(lower, upper string) error {
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return pathError("stat", lower, err)
	}
	if err := unix.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return pathError("chown", upper, err)
	}
	return pathError("chmod", upper, unix.Chmod(upper, st.Mode&0o7777))
}

// mountDisk mounts the disk with that serial. A disk that was plugged in just
// now may answer ENXIO for a moment.
func mountDisk(serial, target, fstype string, flags uintptr, data string) error {
	var node string
	var err error
	found := waitFor(diskTimeout, func() bool {
		if node == "" {
			node = diskNode(serial)
		}
		if node == "" {
			err = unix.ENOENT
			return false
		}
		err = unix.Mount(node, target, fstype, flags, data)
		return err != unix.ENXIO && err != unix.ENOENT
	})
	if !found || err != nil {
		return pathError("mount disk "+quote(serial)+" as "+fstype, target, err)
	}
	return nil
}

// quiesce brings all that was written to the container's disk, and leaves its file
// system as if it were unmounted. What writes from now on waits for ever.
func (sp *spawner) quiesce() error {
	if !sp.ready() || sp.upper < 0 {
		return nil
	}
	const fifreeze = 0xc0045877 // _IOWR('X', 119, int), see ioctl_fsfreeze(2)
	if err := unix.IoctlSetInt(sp.upper, fifreeze, 0); err != nil && err != unix.EBUSY {
		return pathError("freeze", upperDir, err)
	}
	return nil
}

// diskNode returns the device node of the virtio disk with that serial, or
// nothing.
func diskNode(serial string) string {
	entries, _ := os.ReadDir("/sys/block")
	for _, e := range entries {
		b, err := os.ReadFile("/sys/block/" + e.Name() + "/serial")
		if err == nil && trimLine(b) == serial {
			return "/dev/" + e.Name()
		}
	}
	return ""
}
