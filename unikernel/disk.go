package unikernel

import (
	"encoding/json"
	"fmt"
	"os"
)

// Where an image that brings its root file system as a finished disk has the
// disk, and what it says of it, below its root directory.
const (
	DiskFile     = ".uni/disk.img"
	DiskInfoFile = ".uni/disk.json"
)

// MaxDiskInfo bounds a DiskInfoFile, in bytes.
const MaxDiskInfo = 4 << 20

// DiskVersion is the version of DiskInfo that is written and understood.
const DiskVersion = 1

// DiskInfo is what DiskInfoFile says of a disk, as JSON. Further keys are for
// others.
type DiskInfo struct {
	// Version is DiskVersion. It changes when an older reader must not use the
	// disk.
	Version int `json:"version"`
	// Guest is who boots the disk, Filesystem what is on it: "erofs" for the
	// guest linux, "tfs" for nanos.
	Guest      string `json:"guest"`
	Filesystem string `json:"filesystem"`
	// Format of DiskFile is "raw" or "qcow2", Size its length in bytes.
	Format string `json:"format"`
	Size   int64  `json:"size"`
	// Image is the digest of the configuration of the image that the disk was
	// made from.
	Image string `json:"image"`
}

// FinishedDisk is a root file system that is a disk already.
type FinishedDisk struct {
	DiskInfo
	// Open opens the disk's file on the host for reading: a regular file of
	// Size bytes. It must not be changed in any way.
	Open func() (*os.File, error)
}

// ParseDiskInfo reads a DiskInfoFile. A version that is not known is
// ErrNotImplemented, what cannot be true ErrInvalid.
func ParseDiskInfo(data []byte) (DiskInfo, error) {
	var d DiskInfo
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("/%s: %w: %w", DiskInfoFile, ErrInvalid, err)
	}
	switch {
	case d.Version != DiskVersion:
		return d, fmt.Errorf("/%s: %w: the image's disk has format version %d, this runtime knows %d: push the disk again with the uni command of this version, or update containerd-shim-uni",
			DiskInfoFile, ErrNotImplemented, d.Version, DiskVersion)
	case d.Format != "raw" && d.Format != "qcow2":
		return d, fmt.Errorf("/%s: %w: disk format %q, known are raw and qcow2", DiskInfoFile, ErrInvalid, d.Format)
	case d.Guest == "" || d.Filesystem == "" || d.Size <= 0:
		return d, fmt.Errorf("/%s: %w: guest %q, filesystem %q, %d bytes", DiskInfoFile, ErrInvalid, d.Guest, d.Filesystem, d.Size)
	}
	return d, nil
}
