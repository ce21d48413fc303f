package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"containerd-shim-uni/builder/erofs"
	"containerd-shim-uni/unikernel"
)

// Manifest says what a disk holds. It is on the disk itself, behind the file
// system, so that a disk alone is enough to know how to run it:
//
//	0            the file system
//	blocks       the manifest as JSON, zeros up to the footer
//	end − 64     footer, little endian: magic "UNI-DISK", 4 bytes version (1),
//	             4 bytes length of the JSON, 8 bytes its offset,
//	             32 bytes its SHA-256, 8 bytes zero
//
// The disk is a multiple of 4096 bytes. File systems ignore what is behind
// them.
type Manifest struct {
	// Guest is who boots the disk, Filesystem what is on it.
	Guest      string `json:"guest"`
	Filesystem string `json:"filesystem"`
	// Size is the file system's, in bytes.
	Size int64 `json:"size"`
	// Image is the digest of the image's configuration, known as its ID.
	Image        string `json:"image"`
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	// Config is what the image says of its process.
	Config v1.Config `json:"config"`
}

const (
	diskVersion  = 1
	footerSize   = 64
	diskBlock    = 4096
	maxDiskJSON  = 16 << 20
	diskGuest    = "linux"
	diskFileSys  = "erofs"
	footerLayout = 8 + 4 + 4 + 8 + 32
)

var diskMagic = []byte("UNI-DISK")

// ErrNoManifest is for a disk that was not made by Build.
var ErrNoManifest = errors.New("the disk has no manifest")

// Build writes the image as a disk of the linux guest to f, an empty regular
// file, and returns its manifest. The same image gives the same bytes, whoever
// builds it.
func Build(ctx context.Context, i *Image, f *os.File) (Manifest, error) {
	t, err := i.Flatten(ctx)
	if err != nil {
		return Manifest{}, err
	}
	defer t.Close()
	if _, _, ok, _ := FinishedDisk(t.Root); ok {
		return Manifest{}, invalid("%s is a disk already: fetch it with uni pull", i.Source)
	}
	if err := erofs.Write(ctx, f, t.Root); err != nil {
		return Manifest{}, fmt.Errorf("write file system: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Manifest{}, err
	}
	m := i.Manifest()
	m.Size = size
	return m, m.write(f)
}

// Manifest is what a disk of the image says, but for its size.
func (i *Image) Manifest() Manifest {
	return Manifest{
		Guest: diskGuest, Filesystem: diskFileSys, Image: i.ID,
		OS: i.Config.OS, Architecture: i.Config.Architecture, Config: i.Config.Config,
	}
}

// write appends the manifest behind the file system.
func (m Manifest) write(w io.WriterAt) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(data) > maxDiskJSON {
		return invalid("the configuration has %d bytes, at most %d are possible", len(data), maxDiskJSON)
	}
	sum := sha256.Sum256(data)
	le := binary.LittleEndian
	footer := bytes.Clone(diskMagic)
	footer = le.AppendUint32(footer, diskVersion)
	footer = le.AppendUint32(footer, uint32(len(data)))
	footer = le.AppendUint64(footer, uint64(m.Size))
	footer = append(footer, sum[:]...)
	total := (len(data) + footerSize + diskBlock - 1) / diskBlock * diskBlock
	block := make([]byte, total)
	copy(block, data)
	copy(block[total-footerSize:], footer)
	_, err = w.WriteAt(block, m.Size)
	return err
}

// ReadManifest reads the manifest of a disk of size bytes. ErrNoManifest is for
// a disk without one; a wrong one is unikernel.ErrInvalid.
func ReadManifest(r io.ReaderAt, size int64) (Manifest, error) {
	var m Manifest
	footer := make([]byte, footerSize)
	if size < footerSize {
		return m, ErrNoManifest
	}
	if _, err := r.ReadAt(footer, size-footerSize); err != nil && !errors.Is(err, io.EOF) {
		return m, err
	}
	if !bytes.HasPrefix(footer, diskMagic) {
		return m, ErrNoManifest
	}
	le := binary.LittleEndian
	version, length, at := le.Uint32(footer[8:]), int64(le.Uint32(footer[12:])), int64(le.Uint64(footer[16:]))
	if version != diskVersion {
		return m, fmt.Errorf("disk of version %d: %w", version, unikernel.ErrNotImplemented)
	}
	if length > maxDiskJSON || at < 0 || at > size-footerSize-length {
		return m, invalid("manifest of %d bytes at %d of %d", length, at, size)
	}
	data := make([]byte, length)
	if _, err := r.ReadAt(data, at); err != nil {
		return m, err
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], footer[24:footerLayout]) {
		return m, fmt.Errorf("manifest: %w", ErrDigest)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, invalid("manifest: %v", err)
	}
	if m.Size != at {
		return m, invalid("manifest says %d bytes of file system, it is at %d", m.Size, at)
	}
	return m, nil
}
