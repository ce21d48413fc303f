package main

import (
	"maps"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// diskTimeout is how long a disk may take to appear; after rescanAfter without it
// the disks are looked for anew.
const (
	diskTimeout = 10 * time.Second
	rescanAfter = 500 * time.Millisecond
)

// mountRoot mounts the image and the layer above it on rootDir, in the calling
// thread's mount namespace: every container has one, and these places in it for
// itself.
func (c *container) mountRoot() error {
	if err := c.mountDisk(c.Root, lowerDir, "erofs", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if c.Upper != "" {
		// Nothing is gained by initializing tables in the background. What is
		// deleted goes back to the host. A file's data that cannot be written
		// ends all writing: the program shall not go on as if it had been.
		if err := c.mountDisk(c.Upper, upperDir, "ext4", unix.MS_NOATIME, "noinit_itable,discard,errors=remount-ro,data_err=abort"); err != nil {
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
	if c.Upper != "" {
		options += ",redirect_dir=follow"
	} else {
		options += ",redirect_dir=on,volatile"
	}
	return pathError("mount", rootDir, unix.Mount("overlay", rootDir, "overlay", 0, options))
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

// mountDisk mounts the disk with that serial.
func (c *container) mountDisk(serial, target, fstype string, flags uintptr, data string) error {
	err := c.withDisk(serial, func(name string) error { return unix.Mount("/dev/"+name, target, fstype, flags, data) })
	return pathError("mount disk "+quote(serial)+" as "+fstype, target, err)
}

// findDevices learns the numbers of the disks that the container has as devices.
func (c *container) findDevices() error {
	for i := range c.Devices {
		d := &c.Devices[i]
		if d.Serial == "" {
			continue
		}
		err := c.withDisk(d.Serial, func(name string) error {
			var st unix.Stat_t
			if err := unix.Stat("/dev/"+name, &st); err != nil {
				return err
			}
			d.Major, d.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
			return nil
		})
		if err != nil {
			return pathError("find the disk of device", d.Path, err)
		}
	}
	return nil
}

// withDisk does something with the disk of that serial, which is the container's from
// then on. A disk that was plugged in just now may answer ENXIO for a moment.
func (c *container) withDisk(serial string, do func(name string) error) error {
	var err error
	scanned := time.Now()
	waitFor(diskTimeout, func() bool {
		err = c.withFound(serial, do)
		if err != unix.ENXIO && err != unix.ENOENT {
			return true
		}
		if time.Since(scanned) > rescanAfter {
			c.s.rescan()
			scanned = time.Now()
		}
		return false
	})
	return err
}

// withFound does it if the disk is there.
func (c *container) withFound(serial string, do func(name string) error) error {
	c.s.disksMu.Lock()
	defer c.s.disksMu.Unlock()
	name := diskName(sysBlock, serial)
	if name == "" {
		return unix.ENOENT
	}
	err := do(name)
	if err == nil {
		c.disks[serial] = name
	}
	return err
}

// rescan lets go of the SCSI disks that no container has and looks which there are.
// The controller tells when a disk comes or goes, but says only that something was
// missed when much happens at once, as while the machine is paused. A disk that
// went and whose unit another one has looks then as if it were there.
func (s *server) rescan() {
	s.disksMu.Lock()
	defer s.disksMu.Unlock()
	used := map[string]bool{}
	s.mu.Lock()
	for _, c := range s.containers {
		for _, name := range c.disks {
			used[name] = true
		}
	}
	s.mu.Unlock()
	entries, _ := os.ReadDir(sysBlock)
	for _, e := range entries {
		if !used[e.Name()] {
			dropDisk(e.Name())
		}
	}
	hosts, _ := os.ReadDir("/sys/class/scsi_host")
	for _, h := range hosts { // channel, target and unit
		os.WriteFile("/sys/class/scsi_host/"+h.Name()+"/scan", []byte("0 0 -"), 0)
	}
}

// dropDisk lets the kernel forget a SCSI disk, after it has written what it holds
// for it. Another kind of disk stays.
func dropDisk(name string) {
	os.WriteFile(sysBlock+"/"+name+"/device/delete", []byte("1"), 0)
}

// freeDisks returns when the container's disks are nobody's, and forgets them: the
// host may take them away now.
func (c *container) freeDisks() error {
	c.s.disksMu.Lock()
	disks := maps.Clone(c.disks)
	c.s.disksMu.Unlock()
	for serial, name := range disks {
		if err := awaitFree(serial, "/dev/"+name); err != nil {
			return err
		}
		c.s.disksMu.Lock()
		dropDisk(name)
		delete(c.disks, serial)
		c.s.disksMu.Unlock()
	}
	return nil
}

// freeTimeout is how long a file system may take to write what it has to a disk
// after its last mount has gone.
const freeTimeout = 30 * time.Second

// awaitFree returns when the disk is nobody's: a mounted file system holds it for
// itself, however its mount namespace ended. A disk that is gone is free.
func awaitFree(serial, node string) error {
	var err error
	free := waitFor(freeTimeout, func() bool {
		var fd int
		if fd, err = unix.Open(node, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
		}
		return err != unix.EBUSY
	})
	if !free {
		return pathError("unmount disk "+quote(serial), node, err)
	}
	return nil
}

// sysBlock has a directory for each disk.
const sysBlock = "/sys/block"

// diskName returns the kernel's name of the disk with that serial, or nothing. sys
// is sysBlock.
func diskName(sys, serial string) string {
	entries, _ := os.ReadDir(sys)
	for _, e := range entries {
		if found := diskSerial(sys + "/" + e.Name()); found != "" && found == serial {
			return e.Name()
		}
	}
	return ""
}

// diskSerial returns the serial of a disk: a virtio one has it in a file, a SCSI one
// in page 0x80 of its vital product data, after a header of four bytes (SPC-4,
// 7.8.13).
func diskSerial(dir string) string {
	if b, err := os.ReadFile(dir + "/serial"); err == nil {
		return trimLine(b)
	}
	b, err := os.ReadFile(dir + "/device/vpd_pg80")
	if err != nil || len(b) < 4 {
		return ""
	}
	n := int(b[2])<<8 | int(b[3])
	return strings.TrimSpace(string(b[4:min(4+n, len(b))]))
}
