package ext4

import (
	"encoding/binary"
)

const xattrMagic = 0xea020000

// prefixes are the beginnings of names, by the number that stands for them.
var prefixes = map[byte]string{1: "user.", 4: "trusted.", 6: "security.", 7: "system."}

// The numbers of the names of access control lists, which have a form of their
// own on the disk.
const (
	aclAccess, aclDefault         = 2, 3
	aclAccessName, aclDefaultName = "system.posix_acl_access", "system.posix_acl_default"
)

// Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Xattrs returns the extended attributes, as getxattr(2) does.
func (i *Inode) Xattrs() ([]Xattr, error) {
	var all []Xattr
	if at := 0x80 + i.extra(); at+4 <= len(i.raw) && le.Uint32(i.raw[at:]) == xattrMagic {
		b := i.raw[at+4:]
		var err error
		if all, err = i.attributes(all, b, b); err != nil {
			return nil, err
		}
	}
	block := uint64(le.Uint32(i.raw[0x68:])) | uint64(le.Uint16(i.raw[0x76:]))<<32
	if block == 0 {
		return all, nil
	}
	b := make([]byte, blockSize)
	if err := i.fs.block(block, b); err != nil {
		return nil, err
	}
	const header = 32
	if le.Uint32(b) != xattrMagic {
		return nil, bad("inode %d has damaged attributes", i.Number)
	}
	return i.attributes(all, b[header:], b)
}

// attributes reads a list of entries; their values are in values.
func (i *Inode) attributes(all []Xattr, b, values []byte) ([]Xattr, error) {
	for len(b) >= 4 && le.Uint32(b) != 0 {
		const entry = 16
		if len(b) < entry || len(b) < entry+int(b[0]) {
			return nil, bad("inode %d has damaged attributes", i.Number)
		}
		name, index := string(b[entry:entry+int(b[0])]), b[1]
		at, size := int64(le.Uint16(b[2:])), int64(le.Uint32(b[8:]))
		if le.Uint32(b[4:]) != 0 || size > int64(len(values)) || at > int64(len(values))-size {
			return nil, bad("inode %d has a damaged attribute", i.Number)
		}
		x := Xattr{prefixes[index] + name, append([]byte(nil), values[at:at+size]...)}
		switch {
		case index == aclAccess || index == aclDefault:
			x.Name = map[byte]string{aclAccess: aclAccessName, aclDefault: aclDefaultName}[index]
			var err error
			if x.Value, err = acl(x.Value); err != nil {
				return nil, err
			}
		case prefixes[index] == "":
			return nil, bad("inode %d has an attribute of kind %d", i.Number, index)
		}
		all = append(all, x)
		b = b[min((entry+int(b[0])+3)/4*4, len(b)):]
	}
	return all, nil
}

// acl makes the form of an access control list that setxattr(2) takes of the one
// on the disk: version 1 there, in which only entries of a named user or group
// have an id; version 2 here.
func acl(disk []byte) ([]byte, error) {
	const user, group, noID = 0x2, 0x8, 0xffffffff
	if len(disk) < 4 || le.Uint32(disk) != 1 {
		return nil, bad("a damaged access control list")
	}
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for b := disk[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, bad("a damaged access control list")
		}
		out = append(out, b[:4]...)
		id := uint32(noID)
		if tag := le.Uint16(b); tag == user || tag == group {
			if len(b) < 8 {
				return nil, bad("a damaged access control list")
			}
			id = le.Uint32(b[4:])
			b = b[4:]
		}
		out = binary.LittleEndian.AppendUint32(out, id)
		b = b[4:]
	}
	return out, nil
}
