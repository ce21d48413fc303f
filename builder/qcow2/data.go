package qcow2

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

const (
	l2Entries = clusterSize / 8
	// copied says that a cluster has one reference, so that it is written in
	// place.
	copied     = 1 << 63
	offsetMask = 1<<56 - 1<<9
	// maxClusters is what one refcount block counts.
	maxClusters = clusterSize / 2
)

// Chunk is data that an overlay has from the start. The clusters of 64 KiB in
// which it lies are the overlay's own; what Data leaves of them is zero.
type Chunk struct {
	// Offset is where Data begin on the disk, in bytes.
	Offset int64
	Data   []byte
}

// ErrAbsent says that an image itself does not hold what was asked for.
var ErrAbsent = errors.New("the cluster is not in this image")

// WriteData writes the overlay with chunks, which must not share a cluster, to
// f, which must be an empty file. It does not sync. A guest that writes there
// changes no metadata: ReadCluster sees it at once.
func (o Overlay) WriteData(f *os.File, chunks []Chunk) error {
	if err := o.check(); err != nil {
		return err
	}
	clusters, err := o.clusters(chunks)
	if err != nil {
		return err
	}
	first := l1Cluster + (o.l1Entries()*8+clusterSize-1)/clusterSize
	tables := map[int64][]byte{} // by index in the L1 table
	l1 := map[int64]int64{}      // cluster of the table
	next := first
	for _, c := range clusters {
		i := c.index / l2Entries
		if tables[i] == nil {
			tables[i] = make([]byte, clusterSize)
			l1[i] = next
			next++
		}
	}
	total := next + int64(len(clusters))
	if total > maxClusters {
		return fmt.Errorf("qcow2: %d clusters of data, %d are possible", len(clusters), maxClusters-next)
	}
	if err := o.writeEmpty(f, total); err != nil {
		return err
	}
	for _, c := range clusters {
		binary.BigEndian.PutUint64(tables[c.index/l2Entries][c.index%l2Entries*8:], uint64(next*clusterSize)|copied)
		if _, err := f.WriteAt(c.data, next*clusterSize+c.skip); err != nil {
			return err
		}
		next++
	}
	for i, table := range tables {
		entry := binary.BigEndian.AppendUint64(nil, uint64(l1[i]*clusterSize)|copied)
		if _, err := f.WriteAt(entry, l1Cluster*clusterSize+i*8); err != nil {
			return err
		}
		if _, err := f.WriteAt(table, l1[i]*clusterSize); err != nil {
			return err
		}
	}
	return nil
}

// piece is the part of a chunk in one cluster.
type piece struct {
	index int64 // of the cluster on the disk
	skip  int64 // bytes before the data
	data  []byte
}

// clusters cuts chunks into the pieces of each cluster, in order.
func (o Overlay) clusters(chunks []Chunk) ([]piece, error) {
	var list []piece
	for _, c := range chunks {
		if c.Offset < 0 || len(c.Data) == 0 || c.Offset > o.Size-int64(len(c.Data)) {
			return nil, fmt.Errorf("qcow2: %d bytes at %d of a disk of %d", len(c.Data), c.Offset, o.Size)
		}
		for at, data := c.Offset, c.Data; len(data) > 0; {
			n := min(clusterSize-at%clusterSize, int64(len(data)))
			list = append(list, piece{at / clusterSize, at % clusterSize, data[:n]})
			at, data = at+n, data[n:]
		}
	}
	slices.SortFunc(list, func(a, b piece) int { return cmp.Compare(a.index, b.index) })
	for i := 1; i < len(list); i++ {
		if list[i].index == list[i-1].index {
			return nil, fmt.Errorf("qcow2: two chunks at byte %d share a cluster", list[i].index*clusterSize)
		}
	}
	return list, nil
}

// ReadCluster fills b with what the image itself holds at an offset of its
// disk. It wraps ErrAbsent where that is in the backing file, and ErrFormat for
// an image with other clusters than WriteData makes, compressed or encrypted
// ones for example. b must not cross a cluster's end.
func ReadCluster(r io.ReaderAt, b []byte, offset int64) error {
	if offset < 0 || offset%clusterSize+int64(len(b)) > clusterSize {
		return fmt.Errorf("qcow2: %d bytes at %d cross a cluster's end", len(b), offset)
	}
	head := make([]byte, headerSize)
	if err := readAt(r, head, 0); err != nil {
		return err
	}
	be := binary.BigEndian
	size, l1 := be.Uint64(head[24:]), be.Uint64(head[40:])
	if string(head[:4]) != "QFI\xfb" || be.Uint32(head[4:]) != 3 || be.Uint32(head[20:]) != clusterBits ||
		be.Uint32(head[32:]) != 0 || be.Uint64(head[72:]) > 1 || size > MaxSize {
		return fmt.Errorf("qcow2: header: %w", ErrFormat)
	}
	index := offset / clusterSize
	if uint64(offset) >= size || index/l2Entries >= int64(be.Uint32(head[36:])) || l1 > MaxSize {
		return fmt.Errorf("qcow2: byte %d: %w", offset, ErrFormat)
	}
	table, err := entry(r, int64(l1)+index/l2Entries*8)
	if err != nil {
		return err
	}
	at, err := entry(r, table+index%l2Entries*8)
	if err != nil {
		return err
	}
	return readAt(r, b, at+offset%clusterSize)
}

// entry returns the place of a cluster that an entry of a table names.
func entry(r io.ReaderAt, at int64) (int64, error) {
	b := make([]byte, 8)
	if err := readAt(r, b, at); err != nil {
		return 0, err
	}
	e := binary.BigEndian.Uint64(b)
	place := e & offsetMask
	switch {
	case e == 0:
		return 0, ErrAbsent
	case e&^(copied|offsetMask) != 0 || place == 0 || place%clusterSize != 0:
		return 0, fmt.Errorf("qcow2: entry %#x: %w", e, ErrFormat)
	}
	return int64(place), nil
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("qcow2: %w: %w", ErrFormat, err)
	}
	return nil
}
