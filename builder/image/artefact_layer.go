package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
)

// diskLayer is a disk in a compressed tar file, made anew whenever it is read:
// nothing of it is kept.
type diskLayer struct {
	ctx      context.Context
	disk     Disk
	size     int64 // compressed
	digest   v1.Hash
	diffID   v1.Hash
	progress *Progress

	diskSize int64
	info     []byte // unikernel.DiskInfoFile
}

// newDiskLayer reads the disk once for the layer's digests.
func newDiskLayer(ctx context.Context, d Disk, p *Progress) (*diskLayer, error) {
	st, err := d.File.Stat()
	if err != nil {
		return nil, err
	}
	m := d.Manifest
	l := &diskLayer{ctx: ctx, disk: d, diskSize: st.Size(), progress: p}
	if l.info, err = json.Marshal(diskInfo{unikernel.DiskInfo{
		Version: unikernel.DiskVersion, Guest: m.Guest, Filesystem: m.Filesystem, Format: d.Format, Size: l.diskSize, Image: m.Image,
	}, m}); err != nil {
		return nil, err
	}
	if _, err := unikernel.ParseDiskInfo(l.info); err != nil {
		return nil, err
	}
	p.expect(2 * l.diskSize)
	packed, plain, count := sha256.New(), sha256.New(), &counter{}
	if err := l.write(io.MultiWriter(packed, count), plain); err != nil {
		return nil, err
	}
	l.size, l.digest, l.diffID = count.n, hashOf(packed), hashOf(plain)
	return l, nil
}

func hashOf(sum hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
}

// These implement v1.Layer.
func (l *diskLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *diskLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *diskLayer) Size() (int64, error)                { return l.size, nil }
func (l *diskLayer) MediaType() (types.MediaType, error) { return diskMediaType, nil }
func (l *diskLayer) Uncompressed() (io.ReadCloser, error) {
	return nil, errors.New("only the compressed layer can be read")
}

// Compressed returns the layer. Closing it ends the writer behind it.
func (l *diskLayer) Compressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(l.write(w, io.Discard)) }()
	return r, nil
}

// write writes the layer, compressed and plain. Always the same bytes: one
// encoder with fixed settings, fixed times.
func (l *diskLayer) write(packed, plain io.Writer) error {
	z, err := zstd.NewWriter(packed, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	t := tarWriter{Writer: tar.NewWriter(io.MultiWriter(z, plain)), made: map[string]bool{}}
	if err := l.entries(&t); err != nil {
		return errors.Join(err, z.Close())
	}
	return errors.Join(t.Close(), z.Close())
}

// entries writes what containerd needs to make a container, then the disk:
// containerd looks up users in the image's files, and clients copy what the
// image has in its volumes. All else is on the disk.
func (l *diskLayer) entries(t *tarWriter) error {
	var paths []string
	for v := range l.disk.Manifest.Config.Volumes {
		if v = path.Join("/", v); v != "/" && !strings.HasPrefix(v+"/", "/"+path.Dir(unikernel.DiskFile)+"/") {
			paths = append(paths, v)
		}
	}
	slices.Sort(paths) // directories before what is in them
	for _, p := range append(paths, "/etc/passwd", "/etc/group") {
		if err := t.copy(l.disk.Root, p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	if err := t.file(unikernel.DiskInfoFile, int64(len(l.info)), strings.NewReader(string(l.info))); err != nil {
		return err
	}
	disk := l.progress.reader(contextReader{l.ctx, io.NewSectionReader(l.disk.File, 0, l.diskSize)})
	return t.file(unikernel.DiskFile, l.diskSize, disk)
}

// tarWriter writes entries, each path once, after its directories.
type tarWriter struct {
	*tar.Writer
	made map[string]bool
}

// file writes a file of ours.
func (t *tarWriter) file(name string, size int64, r io.Reader) error {
	if err := t.parents(name); err != nil {
		return err
	}
	return t.entry(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: size}, r)
}

// parents writes the directories above a path.
func (t *tarWriter) parents(name string) error {
	dir := path.Dir(name)
	if dir == "." || dir == "/" || t.made[dir] {
		return nil
	}
	if err := t.parents(dir); err != nil {
		return err
	}
	return t.entry(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
}

func (t *tarWriter) entry(h *tar.Header, r io.Reader) error {
	t.made[h.Name] = true
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if h.ModTime.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	if err := t.WriteHeader(h); err != nil || h.Size == 0 {
		return err
	}
	_, err := io.CopyBuffer(writerOnly{t}, r, make([]byte, spoolBuffer))
	return err
}

// copy writes what the tree has at a path, which need not be there: a file, or
// a directory with all that is in it.
func (t *tarWriter) copy(root *tree.Node, name string) error {
	n, _, err := root.Lookup(name)
	if err != nil || t.made[name[1:]] {
		return nil
	}
	if err := t.parents(name[1:]); err != nil {
		return err
	}
	return n.Walk(func(below string, n *tree.Node) error {
		return t.node(path.Join(name, below)[1:], n)
	})
}

// node writes one node; devices and pipes are left out. A file with several
// names becomes several files.
func (t *tarWriter) node(name string, n *tree.Node) error {
	h := &tar.Header{
		Name: name, Mode: int64(n.Mode & 0o7777), Uid: int(n.UID), Gid: int(n.GID), ModTime: time.Unix(n.Mtime, 0),
	}
	for _, x := range n.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+x.Name] = x.Value
	}
	switch n.Type() {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.Target
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, n.Size
	default:
		return nil
	}
	r, err := n.Reader()
	if err != nil {
		return err
	}
	return errors.Join(t.entry(h, r), r.Close())
}

// readAll returns the contents of a small file.
func readAll(n *tree.Node) ([]byte, error) {
	r, err := n.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
