package acl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// The permissions of an entry.
const (
	Read  = 4
	Write = 2
)

// attribute holds a file's access list. It is version 2 and then entries of a
// tag, permissions and a number (linux/posix_acl_xattr.h), sorted by tag. Without it
// the list is the file's mode.
const attribute = "system.posix_acl_access"

const version = 2

// Tags of entries (linux/posix_acl.h).
const (
	tagOwner    = 0x01
	tagUser     = 0x02
	tagGroupObj = 0x04
	tagGroup    = 0x08
	tagMask     = 0x10
	tagOther    = 0x20
)

// noID is the number of an entry that names nobody.
const noID = 0xffffffff

type entry struct {
	Tag, Perm uint16
	ID        uint32
}

// Supported says why the file system of a path that exists has no access lists,
// nil if it has them.
func Supported(path string) error {
	_, err := unix.Getxattr(path, attribute, nil)
	if err == nil || errors.Is(err, unix.ENODATA) {
		return nil
	}
	return wrap(path, err)
}

// SupportedFor is Supported for a path that need not exist: the nearest directory
// above it is asked.
func SupportedFor(path string) error {
	for path != "/" {
		err := Supported(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		path = filepath.Dir(path)
	}
	return Supported(path)
}

// Allow lets a user do what perm says with a file, beside those who can. Who
// changes the same file's list meanwhile is to be kept from it by the caller.
func Allow(path string, uid int, perm uint16) error {
	return change(path, func(list []entry) []entry { return allow(list, uint32(uid), perm) })
}

// Remove takes a user's entry from a file's list, if there is one. A file that is
// gone has none.
func Remove(path string, uid int) error {
	err := change(path, func(list []entry) []entry { return remove(list, uint32(uid)) })
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// change replaces a file's list if f does. The kernel keeps a list that says no
// more than a mode as the mode.
func change(path string, f func([]entry) []entry) error {
	list, err := read(path)
	if err != nil {
		return err
	}
	changed := f(slices.Clone(list))
	if slices.Equal(list, changed) {
		return nil
	}
	return wrap(path, unix.Setxattr(path, attribute, encode(changed), 0))
}

func read(path string) ([]entry, error) {
	data := make([]byte, 1<<16) // XATTR_SIZE_MAX
	n, err := unix.Getxattr(path, attribute, data)
	if err == nil {
		list, err := decode(data[:n])
		return list, wrap(path, err)
	}
	if !errors.Is(err, unix.ENODATA) {
		return nil, wrap(path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	mode := uint16(info.Mode().Perm())
	return []entry{{tagOwner, mode >> 6, noID}, {tagGroupObj, mode >> 3 & 7, noID}, {tagOther, mode & 7, noID}}, nil
}

// allow adds an entry, and lets the mask, which bounds entries, pass it.
func allow(list []entry, uid uint32, perm uint16) []entry {
	list = remove(list, uid)
	mask := perm
	for _, e := range list {
		if e.Tag == tagGroupObj || e.Tag == tagMask {
			mask |= e.Perm
		}
	}
	list = slices.DeleteFunc(list, func(e entry) bool { return e.Tag == tagMask })
	return sorted(append(list, entry{tagUser, perm, uid}, entry{tagMask, mask, noID}))
}

// remove takes an entry away, and the mask with the last one that it bounds: the
// file's mode is then what it was.
func remove(list []entry, uid uint32) []entry {
	before := len(list)
	list = slices.DeleteFunc(list, func(e entry) bool { return e.Tag == tagUser && e.ID == uid })
	if len(list) == before || slices.ContainsFunc(list, func(e entry) bool { return e.Tag == tagUser || e.Tag == tagGroup }) {
		return list
	}
	return slices.DeleteFunc(list, func(e entry) bool { return e.Tag == tagMask })
}

func sorted(list []entry) []entry {
	slices.SortStableFunc(list, func(a, b entry) int { return int(a.Tag) - int(b.Tag) })
	return list
}

func encode(list []entry) []byte {
	data := binary.LittleEndian.AppendUint32(nil, version)
	for _, e := range list {
		data = binary.LittleEndian.AppendUint16(data, e.Tag)
		data = binary.LittleEndian.AppendUint16(data, e.Perm)
		data = binary.LittleEndian.AppendUint32(data, e.ID)
	}
	return data
}

func decode(data []byte) ([]entry, error) {
	const head, size = 4, 8
	if len(data) < head || (len(data)-head)%size != 0 || binary.LittleEndian.Uint32(data) != version {
		return nil, fmt.Errorf("an access list of %d bytes that is not version %d", len(data), version)
	}
	var list []entry
	for data = data[head:]; len(data) > 0; data = data[size:] {
		list = append(list, entry{binary.LittleEndian.Uint16(data), binary.LittleEndian.Uint16(data[2:]), binary.LittleEndian.Uint32(data[4:])})
	}
	return list, nil
}

func wrap(path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: "access list of", Path: path, Err: err}
}
