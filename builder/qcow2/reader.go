package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var magic = []byte{'Q', 'F', 'I', 0xfb}

// ErrFormat is for an image that is no qcow2 image, is damaged, or has what
// Reader does not read.
var ErrFormat = errors.New("not a readable qcow2 image")

// Reader reads the disk in a qcow2 image: version 3, without backing file,
// compression, encryption, or other features.
type Reader struct {
	r        io.ReaderAt
	fileSize int64
	size     int64
	bits     uint
	l1       []uint64
}

// featureExternalData is the incompatible feature bit of an image whose clusters
// are in another file.
const featureExternalData = 1 << 2

// maxL1 bounds what a hostile image makes Open allocate, in entries.
const maxL1 = 1 << 20

// IsImage says whether r begins as a qcow2 image does.
func IsImage(r io.ReaderAt) bool {
	head := make([]byte, len(magic))
	_, err := r.ReadAt(head, 0)
	return err == nil && string(head) == string(magic)
}

// Open reads the header of the image in r, a file of fileSize bytes.
func Open(r io.ReaderAt, fileSize int64) (*Reader, error) {
	h := make([]byte, headerSize)
	if err := readFull(r, h, 0); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	be := binary.BigEndian
	x := &Reader{r: r, fileSize: fileSize, size: int64(be.Uint64(h[24:])), bits: uint(be.Uint32(h[20:]))}
	entries, at := int64(be.Uint32(h[36:])), be.Uint64(h[40:])
	switch {
	case string(h[:4]) != string(magic) || be.Uint32(h[4:]) != 3:
		return nil, fmt.Errorf("%w: want version 3", ErrFormat)
	case be.Uint64(h[8:]) != 0:
		return nil, fmt.Errorf("%w: it has a backing file", ErrFormat)
	case be.Uint64(h[72:])&featureExternalData != 0:
		return nil, fmt.Errorf("%w: its data are in another file", ErrFormat)
	case be.Uint32(h[32:]) != 0 || be.Uint64(h[72:]) != 0:
		return nil, fmt.Errorf("%w: it is encrypted or has features unknown here", ErrFormat)
	case x.bits < 9 || x.bits > 21 || x.size < 0 || x.size > MaxSize:
		return nil, fmt.Errorf("%w: clusters of 1<<%d bytes, disk of %d", ErrFormat, x.bits, x.size)
	case entries > maxL1 || entries < x.clusters()>>(x.bits-3) || at > uint64(fileSize) || entries*8 > fileSize-int64(at):
		return nil, fmt.Errorf("%w: L1 table of %d entries at %d", ErrFormat, entries, at)
	}
	table := make([]byte, entries*8)
	if err := readFull(r, table, int64(at)); err != nil {
		return nil, fmt.Errorf("%w: L1 table: %w", ErrFormat, err)
	}
	for i := range entries {
		x.l1 = append(x.l1, be.Uint64(table[i*8:]))
	}
	return x, nil
}

func (x *Reader) clusters() int64 { return (x.size + 1<<x.bits - 1) >> x.bits }

// Size is the disk's size in bytes.
func (x *Reader) Size() int64 { return x.size }

// Cluster is the size in bytes of the pieces in which the disk is stored.
func (x *Reader) Cluster() int64 { return 1 << x.bits }

// Next returns the first offset at or after off where the disk may hold
// something else than zeros, or Size. It looks at no more than the first level
// of tables.
func (x *Reader) Next(off int64) int64 {
	reach := 2*x.bits - 3 // a cluster of entries of 8 bytes, each for a cluster
	for i := off >> reach; i < int64(len(x.l1)) && off < x.size; i++ {
		if x.l1[i]&offsetBits != 0 {
			return off
		}
		off = (i + 1) << reach
	}
	return x.size
}

// offsetBits are the bits of L1 and L2 entries that hold an offset.
const offsetBits = 0x00fffffffffffe00

const flagCompressed = 1 << 62

// ReadAt implements io.ReaderAt for the disk.
func (x *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: offset %d", ErrFormat, off)
	}
	for len(p) > 0 && off < x.size {
		in := off & (1<<x.bits - 1)
		chunk := p[:min(int64(len(p)), 1<<x.bits-in, x.size-off)]
		at, err := x.lookup(off >> x.bits)
		if err != nil {
			return n, err
		}
		if at == 0 {
			clear(chunk)
		} else if err := readFull(x.r, chunk, at+in); err != nil {
			return n, fmt.Errorf("%w: data at %d: %w", ErrFormat, at, err)
		}
		n, off, p = n+len(chunk), off+int64(len(chunk)), p[len(chunk):]
	}
	if len(p) > 0 {
		return n, io.EOF
	}
	return n, nil
}

// lookup returns the offset of a cluster's data, 0 for zeros.
func (x *Reader) lookup(cluster int64) (int64, error) {
	perTable := x.bits - 3
	i := cluster >> perTable
	if i >= int64(len(x.l1)) {
		return 0, fmt.Errorf("%w: cluster %d is behind the L1 table", ErrFormat, cluster)
	}
	table := int64(x.l1[i] & offsetBits)
	if table == 0 {
		return 0, nil
	}
	var b [8]byte
	if err := readFull(x.r, b[:], table+cluster&(1<<perTable-1)*8); err != nil {
		return 0, fmt.Errorf("%w: L2 table at %d: %w", ErrFormat, table, err)
	}
	entry := binary.BigEndian.Uint64(b[:])
	if entry&flagCompressed != 0 {
		return 0, fmt.Errorf("%w: compressed clusters", ErrFormat)
	}
	if entry&1 != 0 { // reads as zero
		return 0, nil
	}
	return int64(entry & offsetBits), nil
}
