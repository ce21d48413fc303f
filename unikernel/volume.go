package unikernel

import (
	"context"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// VolumeMount is a bind mount of the specification whose source, in the machine, is
// a volume.
type VolumeMount struct {
	// Mount is the entry of Spec.Mounts.
	Mount specs.Mount
	// Volume is the volume's name, and Path where in it the source is; empty for
	// all of it.
	Volume, Path string
}

// VolumeContent is a directory of the machine's own, in its memory, that stands for one of
// the host's.
type VolumeContent struct {
	// Memory says that what is in it is the containers', which is at most what
	// Options allow, those of a tmpfs as mount(8) spells them. Files are then
	// directories that it shall have.
	Memory  bool
	Options []string
	// Files are what is in it, a directory before what is in that.
	Files []VolumeFile
}

// VolumeFile is a directory, a regular file or a symbolic link of a volume.
type VolumeFile struct {
	// Path is relative; the top is ".".
	Path string
	// Mode is as st_mode of inode(7).
	Mode     uint32
	UID, GID uint32
	// Data is what a file holds, or where a link leads.
	Data string
}

// VolumeKeeper is a Session whose machine can have volumes, see Plan.Volumes.
type VolumeKeeper interface {
	// SetVolume makes a volume be what v says. It is there for containers that are
	// made, or run by Session.Run, afterwards; those that have it see the change: a
	// file in place, and a symbolic link as one that is renamed over the old one.
	SetVolume(ctx context.Context, name string, v VolumeContent) error
	// RemoveVolume takes a volume away; containers that have it keep what they
	// have mounted.
	RemoveVolume(ctx context.Context, name string) error
}
