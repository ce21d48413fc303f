package main

import (
	"strings"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// mountAll makes the specification's mounts in their order. It runs inside the
// container's PID namespace, which a proc shows, and with uni-init's root.
func mountAll(c *wire.Container) error {
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if err := mountOne(m); err != nil {
			what := quote(m.Source)
			if m.Type == "bind" || m.Type == wire.TypeVolume { // its source is a name of ours, which means nothing to a person
				what = "the bind mount"
			}
			return &failure{codeOf(err), "error mounting " + what + " to rootfs at " + quote(m.Destination) + ": " + err.Error()}
		}
	}
	return nil
}

func mountOne(m *wire.Mount) error {
	o := parseOptions(m.Options)
	switch m.Type {
	case "bind":
		return mountBind(shareDir, m, o)
	case wire.TypeVolume:
		return mountBind(volumesDir, m, o)
	}
	data := strings.Join(o.data, ",")
	fstype := m.Type
	switch m.Type {
	case "cgroup", "cgroup2":
		fstype, data = "cgroup2", ""
	case "tmpfs":
		data = tmpfsData(m.Destination, o.data)
	}
	target, err := walk(fdRoot, m.Destination, wantDir)
	if err != nil {
		return pathError("mkdir", m.Destination, err)
	}
	defer unix.Close(target)
	flags := o.flags
	if isDev(m.Destination) {
		flags &^= unix.MS_RDONLY // until the nodes are there: restrictPaths
	}
	if err := unix.Mount(m.Source, fdPath(target), fstype, flags, data); err != nil {
		return err
	}
	return propagate(m.Destination, o)
}

func isDev(path string) bool { return strings.Trim(path, "/") == "dev" }

// tmpfsData gives a tmpfs the mode of the directory it covers, unless the
// options say one.
func tmpfsData(destination string, data []string) string {
	for _, d := range data {
		if strings.HasPrefix(d, "mode=") {
			return strings.Join(data, ",")
		}
	}
	if fd, err := walk(fdRoot, destination, wantExisting); err == nil {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			data = append(data, "mode="+formatOctal(st.Mode&0o7777))
		}
		unix.Close(fd)
	}
	return strings.Join(data, ",")
}

func formatOctal(mode uint32) string {
	b := [4]byte{}
	for i := 3; i >= 0; i-- {
		b[i] = byte('0' + mode&7)
		mode >>= 3
	}
	return string(b[:])
}

// mountBind binds what is in a directory of the machine's. Flags other than bind
// take a second call.
func mountBind(dir string, m *wire.Mount, o mountOptions) error {
	source, err := openSource(dir, m.Source)
	if err != nil {
		return wrap("open what the host shares for it", err)
	}
	defer unix.Close(source)
	w := wantFile
	if isDir(source) {
		w = wantDir
	}
	target, err := walk(fdRoot, m.Destination, w)
	if err != nil {
		return pathError("make mount point", m.Destination, err)
	}
	defer unix.Close(target)
	bind := unix.MS_BIND | o.flags&unix.MS_REC
	if err := unix.Mount(fdPath(source), fdPath(target), "", bind, ""); err != nil {
		return err
	}
	mountBelow(m.Destination, o.below)
	if flags := o.flags &^ (unix.MS_BIND | unix.MS_REC); flags != 0 {
		if err := remount(m.Destination, flags); err != nil {
			return wrap("remount", err)
		}
	}
	return propagate(m.Destination, o)
}

// mountBelow makes the mounts below a bind mount that the host has there, before
// a flag is set that they shall not have: the kernel makes them when a path leads
// through them, with the flags of the mount above. One that is gone is left out.
func mountBelow(destination string, paths []string) {
	if len(paths) == 0 {
		return
	}
	top, err := walk(fdRoot, destination, wantExisting)
	if err != nil {
		return
	}
	defer unix.Close(top)
	for _, path := range paths {
		if fd, err := openBelow(top, path); err == nil {
			unix.Close(fd)
		}
	}
}

// openSource opens a path of a directory of the machine's. What is a mount on the
// host is a mount here, which is made when a path leads through it.
func openSource(dir, path string) (int, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return openBelow(root, path)
}

// openBelow opens a path below a directory, of which no part is a link.
func openBelow(dir int, path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(dir, path+"/.", &how)
	if err == unix.ENOTDIR {
		return unix.Openat2(dir, path, &how)
	}
	return fd, err
}

// remount changes the flags of the mount at a path of the container.
func remount(path string, flags uintptr) error {
	fd, err := walk(fdRoot, path, wantExisting)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Mount("", fdPath(fd), "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}

// propagate applies what acts on a mount that is there.
func propagate(path string, o mountOptions) error {
	if len(o.propagation) == 0 && o.recursive == 0 {
		return nil
	}
	fd, err := walk(fdRoot, path, wantExisting)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, flags := range o.propagation {
		if err := unix.Mount("", fdPath(fd), "", flags, ""); err != nil {
			return err
		}
	}
	if o.recursive == 0 {
		return nil
	}
	attr := unix.MountAttr{Attr_set: uint64(o.recursive)}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
}

// restrictPaths hides and write-protects what the specification says, last of
// all mounts. What is not there needs no protection.
func restrictPaths(c *wire.Container) error {
	for _, m := range c.Mounts {
		if o := parseOptions(m.Options); isDev(m.Destination) && m.Type != "bind" && o.flags&unix.MS_RDONLY != 0 {
			if err := remount("/dev", o.flags); err != nil {
				return pathError("remount", "/dev", err)
			}
		}
	}
	for _, path := range c.ReadonlyPaths {
		if err := readonlyPath(path); err != nil {
			return pathError("make read-only", path, err)
		}
	}
	for _, path := range c.MaskedPaths {
		if err := maskPath(path); err != nil {
			return pathError("mask", path, err)
		}
	}
	if c.ReadonlyRoot {
		return pathError("make read-only", "/", remount("/", unix.MS_RDONLY))
	}
	return nil
}

func readonlyPath(path string) error {
	fd, err := walk(fdRoot, path, wantExisting)
	if err != nil {
		return ignoreAbsent(err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if err := unix.Mount(fdPath(fd), fdPath(fd), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	// The new mount has the flags of the one it shows, which stay.
	keep := uintptr(fs.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	return remount(path, unix.MS_RDONLY|keep)
}

func maskPath(path string) error {
	fd, err := walk(fdRoot, path, wantExisting)
	if err != nil {
		return ignoreAbsent(err)
	}
	defer unix.Close(fd)
	if isDir(fd) {
		return unix.Mount("tmpfs", fdPath(fd), "tmpfs", unix.MS_RDONLY, "nr_blocks=1,nr_inodes=1")
	}
	return unix.Mount("/dev/null", fdPath(fd), "", unix.MS_BIND, "")
}

func ignoreAbsent(err error) error {
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	return err
}

// defaultDevices are the nodes every container has, from the runtime
// specification ("Default Devices"), with the numbers of the kernel's
// devices.txt.
var defaultDevices = []wire.Device{
	{Path: "/dev/null", Type: 'c', Major: 1, Minor: 3, Mode: 0o666},
	{Path: "/dev/zero", Type: 'c', Major: 1, Minor: 5, Mode: 0o666},
	{Path: "/dev/full", Type: 'c', Major: 1, Minor: 7, Mode: 0o666},
	{Path: "/dev/random", Type: 'c', Major: 1, Minor: 8, Mode: 0o666},
	{Path: "/dev/urandom", Type: 'c', Major: 1, Minor: 9, Mode: 0o666},
	{Path: "/dev/tty", Type: 'c', Major: 5, Minor: 0, Mode: 0o666},
}

// defaultLinks are the links every container has.
var defaultLinks = [][2]string{
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
	{"pts/ptmx", "/dev/ptmx"},
}

// makeDevices makes the default nodes and links, those of the specification, and,
// for a container that has them, the machine's.
func makeDevices(root int, c *wire.Container) error {
	var own []wire.Device
	if ownsDevices(c) {
		var err error
		if own, err = ownDevices(); err != nil {
			return err
		}
	}
	for _, list := range [][]wire.Device{defaultDevices, c.Devices, own} {
		for i := range list {
			if list[i].Type == wire.AllDevices {
				continue
			}
			if err := makeDevice(root, &list[i]); err != nil {
				return pathError("make device", list[i].Path, err)
			}
		}
	}
	for _, l := range defaultLinks {
		if err := makeLink(root, l[0], l[1]); err != nil {
			return pathError("make link", l[1], err)
		}
	}
	return nil
}

// parentOf opens the directory of a path and returns the last element.
func parentOf(root int, path string) (dir int, name string, err error) {
	i := strings.LastIndexByte(path, '/')
	name = path[i+1:]
	if name == "" || name == "." || name == ".." {
		return -1, "", unix.EINVAL
	}
	dir, err = walk(root, path[:max(i, 0)], wantDir)
	return dir, name, err
}

func makeDevice(root int, d *wire.Device) error {
	dir, name, err := parentOf(root, d.Path)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	kind := map[byte]uint32{'c': unix.S_IFCHR, 'u': unix.S_IFCHR, 'b': unix.S_IFBLK, 'p': unix.S_IFIFO}[d.Type]
	if kind == 0 {
		return unix.EINVAL
	}
	err = unix.Mknodat(dir, name, kind|d.Mode&0o7777, int(unix.Mkdev(d.Major, d.Minor)))
	if err == unix.EEXIST {
		return nil // the image's own, or named twice
	}
	if err != nil {
		return err
	}
	if err := unix.Fchmodat(dir, name, d.Mode&0o7777, 0); err != nil { // umask
		return err
	}
	return unix.Fchownat(dir, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

func makeLink(root int, target, path string) error {
	dir, name, err := parentOf(root, path)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	err = unix.Symlinkat(target, dir, name)
	if err == unix.EEXIST {
		return nil
	}
	return err
}
