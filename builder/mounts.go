package builder

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"
)

// volumeRoot is where volumes lie that hold one file: the kernel mounts on
// directories only, so the file's place has a link.
const volumeRoot = "/.uni"

// mount is a volume that gets a disk.
type mount struct {
	unikernel.Volume
	// at is the directory it is mounted on, without symbolic links.
	at string
	// file is the name of the one file on it; empty for a directory.
	file string
	// label is how the kernel finds the disk, unique in a machine.
	label string
	disk  unikernel.Disk
}

// additions is what a configuration adds to a root.
type additions struct {
	mounts      []mount
	directories []string
	links       []tfs.NewFile
}

// planMounts says where a configuration's files and volumes go in a guest's
// view, which shows them from then on. Volumes have no disks yet.
func planMounts(v *view, c unikernel.BootConfig) (additions, error) {
	add := additions{directories: c.Directories}
	for _, vol := range c.Volumes {
		if err := add.volume(v, vol); err != nil {
			return add, fmt.Errorf("%s: %w", describe(vol), err)
		}
	}
	for _, f := range c.Files {
		p, err := v.find(f.Path)
		if err == nil {
			err = notNested(p)
		}
		if err != nil {
			return add, fmt.Errorf("bind mount of %s at %s: %w: %w", f.Source, f.Path, unikernel.ErrInvalid, err)
		}
		v.copies[p.path] = f.Source
	}
	return add, nil
}

// describe names a volume in an error.
func describe(vol unikernel.Volume) string {
	if vol.Source == "" {
		return "tmpfs at " + vol.Path
	}
	return "bind mount of " + vol.Source + " at " + vol.Path
}

// volume adds one volume, or the directory that does instead.
func (a *additions) volume(v *view, vol unikernel.Volume) error {
	isFile, err := isRegular(vol.Source)
	if err != nil {
		return err
	}
	p, err := v.find(vol.Path)
	if err != nil {
		return fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	if err := notNested(p); err != nil {
		return err
	}
	m := mount{Volume: vol, at: p.path}
	switch {
	case isFile && p.isDir():
		return fmt.Errorf("%w: the image has a directory there, and the source is a file", unikernel.ErrInvalid)
	case isFile:
		m.file = path.Base(p.path)
		m.at = path.Join(volumeRoot, strconv.Itoa(len(a.mounts)))
		target := path.Join(m.at, m.file)
		a.links = append(a.links, tfs.NewFile{Path: p.path, Target: target})
		v.links[p.path] = target
	case !p.missing && !p.isDir():
		return fmt.Errorf("%w: the image has a file there, and a mount needs a directory", unikernel.ErrInvalid)
	case vol.Spare && (p.missing || len(p.file.Names()) == 0):
		a.directories = append(a.directories, p.path)
		return nil
	}
	if err := m.check(v); err != nil {
		return err
	}
	a.directories = append(a.directories, m.at)
	a.mounts = append(a.mounts, m)
	v.volumes[m.at] = &volume{}
	return nil
}

// check refuses where the kernel cannot mount. It takes ":ro" wherever it finds
// that for an option (volume_mount of Nanos' src/kernel/storage.c), and reads
// paths as UTF-8.
func (m mount) check(v *view) error {
	if strings.Contains(m.at, ":ro") || !utf8.ValidString(m.at) {
		return fmt.Errorf("%w: this guest's kernel cannot mount on a path with \":ro\" in it, or one that is no UTF-8, as is %q; use the guest \"linux\"",
			unikernel.ErrNotImplemented, m.at)
	}
	for other := range v.volumes {
		if strings.HasPrefix(other, m.at+"/") {
			return nested(other, m.at)
		}
	}
	return nil
}

// notNested refuses a mount in or over another.
func notNested(p place) error {
	if p.volume == p.path && p.volume != "" {
		return fmt.Errorf("%w: there is another mount", unikernel.ErrInvalid)
	}
	if p.volume != "" {
		return nested(p.path, p.volume)
	}
	return nil
}

func nested(inner, outer string) error {
	return fmt.Errorf("%w: %s lies in %s, which is a mount too, and this guest's kernel mounts on directories of its root alone; "+
		"put what belongs together in one directory of the host, or use the guest \"linux\"", unikernel.ErrNotImplemented, inner, outer)
}

func isRegular(source string) (bool, error) {
	if source == "" {
		return false, nil
	}
	st, err := os.Stat(source)
	if err != nil {
		return false, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	return st.Mode().IsRegular(), nil
}

// settings is the attribute of the root by which the kernel mounts.
func (a additions) settings() tfs.Settings {
	var list tfs.Settings
	for _, m := range a.mounts {
		option := ""
		if m.ReadOnly {
			option = ":ro"
		}
		list = append(list, tfs.Setting{Name: m.label, Value: m.at + option})
	}
	if list == nil {
		return nil
	}
	return tfs.Settings{{Name: "mounts", Value: list}}
}

func (a additions) disks() []unikernel.Disk {
	var list []unikernel.Disk
	for _, m := range a.mounts {
		list = append(list, m.disk)
	}
	return list
}
