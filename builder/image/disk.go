package image

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"containerd-shim-uni/builder/erofs"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"
)

// Manifest says what a disk holds. It is on the disk itself, outside the file
// system, so that a disk alone is enough to know how to run it. A disk of the
// guest linux has it behind the file system, at its end:
//
//	0            the file system
//	blocks       the manifest as JSON, zeros up to the footer
//	end − 64     footer, little endian: magic "UNI-DISK", 4 bytes version (1),
//	             4 bytes length of the JSON, 8 bytes its offset,
//	             32 bytes its SHA-256, 8 bytes zero
//
// A disk of the guest nanos has it where neither the boot loader nor the kernel
// looks, so that it stays when the guest writes to the disk: the footer ends
// where the kernel's last words begin (tfs.LogOffset).
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
	// Boot and Kernel are the digests of the boot loader and the kernel on the
	// disk, Program the path of what it starts by itself. All are empty for the
	// guest linux.
	Boot    string `json:"boot,omitempty"`
	Kernel  string `json:"kernel,omitempty"`
	Program string `json:"program,omitempty"`
}

const (
	diskVersion  = 1
	footerSize   = 64
	diskBlock    = 4096
	maxDiskJSON  = unikernel.MaxDiskInfo
	footerLayout = 8 + 4 + 4 + 8 + 32

	guestLinux, fsErofs = "linux", "erofs"
	guestNanos, fsTFS   = "nanos", "tfs"
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
	return i.Write(ctx, t, f)
}

// Write writes the image's files, which Flatten returned, as Build does.
func (i *Image) Write(ctx context.Context, t *Tree, f *os.File) (Manifest, error) {
	if err := i.checkFiles(t); err != nil {
		return Manifest{}, err
	}
	if err := erofs.Write(ctx, f, t.Root); err != nil {
		return Manifest{}, fmt.Errorf("write file system: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Manifest{}, err
	}
	m := i.Manifest()
	m.Guest, m.Filesystem, m.Size = guestLinux, fsErofs, size
	block, err := m.block(func(length int64) int64 { return size })
	if err != nil {
		return Manifest{}, err
	}
	_, err = f.WriteAt(block, size)
	return m, err
}

// Boot is what a disk of the nanos guest has beside an image's files.
type Boot struct {
	// Loader and Kernel are the kernel's boot.img and kernel.img.
	Loader, Kernel []byte
	// Program is the path of the program that is started; without one, the
	// disk does not boot by itself.
	Program string
	// Free is about how many bytes the guest can write where it boots this very
	// disk.
	Free int64
}

// diskLabel is the label of a root file system.
const diskLabel = "uni-root"

// WriteBoot writes the image's files, which Flatten returned, as a disk that
// boots by itself to f, an empty regular file, and returns its manifest. The
// same image and kernel give the same bytes. A boot loader or kernel that
// cannot be one is unikernel.ErrInvalid.
func (i *Image) WriteBoot(ctx context.Context, t *Tree, b Boot, f *os.File) (Manifest, error) {
	if err := i.checkFiles(t); err != nil {
		return Manifest{}, err
	}
	m := i.Manifest()
	m.Guest, m.Filesystem, m.Program = guestNanos, fsTFS, b.Program
	m.Boot, m.Kernel = sha256Of(b.Loader), sha256Of(b.Kernel)
	free := (b.Free + diskBlock - 1) / diskBlock * diskBlock
	d := tfs.Disk{Boot: b.Loader, Kernel: b.Kernel, Label: diskLabel, Free: free}
	if b.Program != "" {
		c := m.Config
		d.Settings = tfs.Process(b.Program, slices.Concat(c.Entrypoint, c.Cmd), c.Env, cmp.Or(c.WorkingDir, "/"))
	}
	if err := d.Write(ctx, f, t.Root); err != nil {
		if errors.Is(err, tfs.ErrFormat) {
			err = fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
		}
		return Manifest{}, fmt.Errorf("write disk: %w", err)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Manifest{}, err
	}
	m.Size = end - tfs.RootOffset - free
	at := int64(0)
	block, err := m.block(func(length int64) int64 {
		at = tfs.LogOffset - length
		return at
	})
	if err != nil {
		return Manifest{}, err
	}
	if at < int64(len(b.Loader)) {
		return Manifest{}, invalid("the image's configuration has %d bytes, at most %d are possible", len(block), tfs.LogOffset-len(b.Loader))
	}
	_, err = f.WriteAt(block, at)
	return m, err
}

// checkFiles refuses an image whose files are a disk.
func (i *Image) checkFiles(t *Tree) error {
	if _, _, ok, _ := FinishedDisk(t.Root); ok {
		return invalid("%s is a disk already: fetch it with uni pull", i.Source)
	}
	return nil
}

func sha256Of(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Manifest is what the image says for that of a disk.
func (i *Image) Manifest() Manifest {
	return Manifest{Image: i.ID, OS: i.Config.OS, Architecture: i.Config.Architecture, Config: i.Config.Config}
}

// block returns the manifest as it is on a disk, and its footer: whole blocks.
// place says where a block of this length goes.
func (m Manifest) block(place func(length int64) int64) ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(data) > maxDiskJSON {
		return nil, invalid("the configuration has %d bytes, at most %d are possible", len(data), maxDiskJSON)
	}
	sum := sha256.Sum256(data)
	total := (len(data) + footerSize + diskBlock - 1) / diskBlock * diskBlock
	le := binary.LittleEndian
	footer := bytes.Clone(diskMagic)
	footer = le.AppendUint32(footer, diskVersion)
	footer = le.AppendUint32(footer, uint32(len(data)))
	footer = le.AppendUint64(footer, uint64(place(int64(total))))
	footer = append(footer, sum[:]...)
	block := make([]byte, total)
	copy(block, data)
	copy(block[total-footerSize:], footer)
	return block, nil
}

// ReadManifest reads the manifest of a disk of size bytes. ErrNoManifest is for
// a disk without one; a wrong one is unikernel.ErrInvalid.
func ReadManifest(r io.ReaderAt, size int64) (m Manifest, err error) {
	for _, end := range []int64{size, tfs.LogOffset} {
		if end > size {
			continue
		}
		if m, err = readManifest(r, end); !errors.Is(err, ErrNoManifest) {
			return m, err
		}
	}
	return m, ErrNoManifest
}

// readManifest reads the one whose footer ends at a place.
func readManifest(r io.ReaderAt, end int64) (m Manifest, err error) {
	footer := make([]byte, footerSize)
	if end < footerSize {
		return m, ErrNoManifest
	}
	if _, err := r.ReadAt(footer, end-footerSize); err != nil && !errors.Is(err, io.EOF) {
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
	if length > maxDiskJSON || at < 0 || at > end-footerSize-length {
		return m, invalid("manifest of %d bytes at %d of %d", length, at, end)
	}
	data := make([]byte, length)
	if _, err := r.ReadAt(data, at); err != nil {
		return m, err
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], footer[24:footerLayout]) {
		return m, fmt.Errorf("manifest: %w", ErrDigest)
	}
	if err := unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	if m.Filesystem == fsErofs && m.Size != at {
		return m, invalid("manifest says %d bytes of file system, it is at %d", m.Size, at)
	}
	return m, nil
}
