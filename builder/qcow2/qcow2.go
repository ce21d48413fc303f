package qcow2

import (
	"encoding/binary"
	"fmt"
	"os"
)

const (
	clusterBits = 16
	clusterSize = 1 << clusterBits
	headerSize  = 104

	tableCluster = 1
	blockCluster = 2
	l1Cluster    = 3

	extensionBackingFormat = 0xE2792ACA
	maxBackingName         = 1023

	// perL1Entry is how many bytes of the disk one L1 entry reaches: an L2
	// table fills a cluster with entries of 8 bytes.
	perL1Entry = clusterSize / 8 * clusterSize

	// MaxSize is the largest disk in bytes: 16 TiB, whose L1 table has four
	// clusters. The format allows more, nothing here needs it.
	MaxSize = 16 << 40
)

// Overlay describes an empty overlay.
type Overlay struct {
	// Size is the disk's virtual size in bytes, a multiple of 512.
	Size int64
	// Backing is the backing file; a relative path is looked up beside the
	// overlay. It must not look like "protocol:…".
	Backing string
	// BackingFormat is "raw" or "qcow2".
	BackingFormat string
}

// Write writes the overlay to f, which must be an empty file. It does not sync.
func (o Overlay) Write(f *os.File) error {
	if err := o.check(); err != nil {
		return err
	}
	return o.writeEmpty(f, l1Cluster+(o.l1Entries()*8+clusterSize-1)/clusterSize)
}

// writeEmpty writes all but L1 entries, L2 tables and data, for an image of
// this many clusters.
func (o Overlay) writeEmpty(f *os.File, clusters int64) error {
	if err := f.Truncate(clusters * clusterSize); err != nil {
		return err
	}
	if _, err := f.WriteAt(o.header(), 0); err != nil {
		return err
	}
	table := binary.BigEndian.AppendUint64(nil, blockCluster*clusterSize)
	if _, err := f.WriteAt(table, tableCluster*clusterSize); err != nil {
		return err
	}
	var block []byte
	for range clusters {
		block = binary.BigEndian.AppendUint16(block, 1)
	}
	_, err := f.WriteAt(block, blockCluster*clusterSize)
	return err
}

func (o Overlay) check() error {
	if o.Size <= 0 || o.Size > MaxSize || o.Size%512 != 0 {
		return fmt.Errorf("qcow2: a disk of %d bytes: want a multiple of 512, at most %d", o.Size, int64(MaxSize))
	}
	if len(o.Backing) == 0 || len(o.Backing) > maxBackingName {
		return fmt.Errorf("qcow2: backing file's name has %d bytes: 1 to %d are possible", len(o.Backing), maxBackingName)
	}
	if o.BackingFormat != "raw" && o.BackingFormat != "qcow2" {
		return fmt.Errorf("qcow2: backing format %q: want raw or qcow2", o.BackingFormat)
	}
	return nil
}

func (o Overlay) l1Entries() int64 { return (o.Size + perL1Entry - 1) / perL1Entry }

// header returns the header, its extensions and the backing file's name.
func (o Overlay) header() []byte {
	be := binary.BigEndian
	var ext []byte
	ext = be.AppendUint32(ext, extensionBackingFormat)
	ext = be.AppendUint32(ext, uint32(len(o.BackingFormat)))
	ext = append(ext, o.BackingFormat...)
	ext = append(ext, make([]byte, -len(ext)&7)...)
	ext = append(ext, make([]byte, 8)...) // end of extensions

	h := append([]byte(nil), 'Q', 'F', 'I', 0xfb)
	h = be.AppendUint32(h, 3)
	h = be.AppendUint64(h, uint64(headerSize+len(ext)))
	h = be.AppendUint32(h, uint32(len(o.Backing)))
	h = be.AppendUint32(h, clusterBits)
	h = be.AppendUint64(h, uint64(o.Size))
	h = be.AppendUint32(h, 0) // no encryption
	h = be.AppendUint32(h, uint32(o.l1Entries()))
	h = be.AppendUint64(h, l1Cluster*clusterSize)
	h = be.AppendUint64(h, tableCluster*clusterSize)
	h = be.AppendUint32(h, 1) // clusters of the refcount table
	h = be.AppendUint32(h, 0) // no snapshots
	h = be.AppendUint64(h, 0)
	h = append(h, make([]byte, 24)...) // no features
	h = be.AppendUint32(h, 4)          // refcounts of 1<<4 bits
	h = be.AppendUint32(h, headerSize)
	return append(append(h, ext...), o.Backing...)
}
