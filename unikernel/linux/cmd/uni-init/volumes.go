package main

import (
	"os"
	"strings"
	"sync"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// volumes are directories in memory, below volumesDir, that containers mount as
// their mounts say. Those with files are of one file system, mounted when the first
// one comes; those of memory each have one of their own. All of that is mounted in
// the machine's mount namespace, of which a container's begins as a copy: a volume
// comes before the containers that mount it.
type volumes struct {
	mu      sync.Mutex // held over a request
	mounted bool
	memory  map[string]bool // names of those that are file systems
}

// set does what a request says.
func (s *volumes) set(v *wire.Volume) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.Name == "" || v.Name[0] == '.' || strings.Contains(v.Name, "/") {
		return &failure{wire.CodeInvalid, "name of a volume: " + quote(v.Name)}
	}
	dir := volumesDir + "/" + v.Name
	if v.Kind == wire.VolumeGone {
		return s.remove(v.Name, dir)
	}
	if err := s.mount(); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	if v.Kind == wire.VolumeFiles {
		return fillVolume(dir, v.Files)
	}
	if !s.memory[v.Name] {
		o := parseOptions(v.Options)
		if err := unix.Mount("tmpfs", dir, "tmpfs", o.flags, strings.Join(o.data, ",")); err != nil {
			return pathError("mount", dir, err)
		}
		if s.memory == nil {
			s.memory = map[string]bool{}
		}
		s.memory[v.Name] = true
	}
	return makeDirectories(dir, v.Files)
}

// mount mounts the file system of the volumes with files, once.
func (s *volumes) mount() error {
	if s.mounted {
		return nil
	}
	if err := os.Mkdir(volumesDir, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	err := unix.Mount("tmpfs", volumesDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	s.mounted = err == nil
	return pathError("mount", volumesDir, err)
}

// remove takes a volume away; one that is not there is fine.
func (s *volumes) remove(name, dir string) error {
	if s.memory[name] {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return pathError("unmount", dir, err)
		}
		delete(s.memory, name)
	}
	return os.RemoveAll(dir)
}

// makeDirectories makes those that are not there: what is, is the containers'.
// A container may have put a link in the way: no path leads through one.
func makeDirectories(top string, list []wire.VolumeFile) error {
	root, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", top, err)
	}
	defer unix.Close(root)
	for i := range list {
		if f := &list[i]; f.Path != "." {
			if err := makeDirectory(root, f); err != nil {
				return pathError("make directory", f.Path, err)
			}
		}
	}
	return nil
}

func makeDirectory(root int, f *wire.VolumeFile) error {
	parent, name := ".", f.Path
	if i := strings.LastIndexByte(f.Path, '/'); i >= 0 {
		parent, name = f.Path[:i], f.Path[i+1:]
	}
	dir, err := openBelow(root, parent)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		if err == unix.EEXIST {
			return nil
		}
		return err
	}
	if err := unix.Fchownat(dir, name, int(f.UID), int(f.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(dir, name, f.Mode&0o7777, 0)
}

// fillVolume makes a directory hold the files and nothing else. A file is written in
// place, for a container has it mounted; a link is renamed over the old one when all
// else is there; and what is too much goes last. So a directory that the kubelet
// made, in which "..data" leads to the directory of the files, is changed as the
// kubelet changes it (pkg/volume/util/atomic_writer.go of Kubernetes). Containers
// can write to files at most, so that no path leads elsewhere.
func fillVolume(dir string, files []wire.VolumeFile) error {
	keep := map[string]bool{}
	for i := range files {
		f := &files[i]
		keep[f.Path] = true
		if f.Mode&unix.S_IFMT == unix.S_IFLNK {
			continue
		}
		if err := putFile(dir+"/"+f.Path, f); err != nil {
			return err
		}
	}
	for i := range files {
		f := &files[i]
		if f.Mode&unix.S_IFMT != unix.S_IFLNK {
			continue
		}
		if err := putLink(dir+"/"+f.Path, f); err != nil {
			return err
		}
	}
	return removeOthers(dir, "", keep)
}

func putFile(path string, f *wire.VolumeFile) error {
	if err := clearWay(path, f.Mode); err != nil {
		return err
	}
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.Mkdir(path, 0o700); err != nil && !os.IsExist(err) {
			return err
		}
	case unix.S_IFREG:
		if err := writeInPlace(path, f.Data); err != nil {
			return err
		}
	default:
		return &failure{wire.CodeInvalid, quote(f.Path) + " of a volume is no file, directory or link"}
	}
	return giveTo(path, f)
}

// clearWay removes what is of another type.
func clearWay(path string, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT == mode&unix.S_IFMT {
		return nil // what is wrong shows when it is made
	}
	return os.RemoveAll(path)
}

// writeInPlace writes a file unless it holds the data already.
func writeInPlace(path, data string) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == data {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(data); err != nil {
		return err
	}
	return f.Truncate(int64(len(data)))
}

// giveTo sets owner and mode, if they are others.
func giveTo(path string, f *wire.VolumeFile) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return pathError("stat", path, err)
	}
	if st.Uid != f.UID || st.Gid != f.GID {
		if err := os.Lchown(path, int(f.UID), int(f.GID)); err != nil {
			return err
		}
	} else if st.Mode == f.Mode {
		return nil
	}
	if f.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	return pathError("chmod", path, unix.Chmod(path, f.Mode&0o7777))
}

func putLink(path string, f *wire.VolumeFile) error {
	if target, err := os.Readlink(path); err == nil && target == f.Data {
		return giveTo(path, f)
	}
	if err := clearWay(path, f.Mode); err != nil {
		return err
	}
	fresh := path + "_tmp"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Symlink(f.Data, fresh); err != nil {
		return err
	}
	if err := giveTo(fresh, f); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// removeOthers removes what is not to be kept below the directory at path below top.
func removeOthers(top, path string, keep map[string]bool) error {
	entries, err := os.ReadDir(top + "/" + path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path + e.Name()
		switch {
		case !keep[name]:
			err = os.RemoveAll(top + "/" + name)
		case e.IsDir():
			err = removeOthers(top, name+"/", keep)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
