package qcow2

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"containerd-shim-uni/builder/hostfs"
)

// refsPerBlock is how many clusters one refcount block counts.
const refsPerBlock = clusterSize / 2

// flagCopied says in L1 and L2 entries that the cluster has one reference.
const flagCopied = 1 << 63

// Convert writes a disk of size bytes, a multiple of 512, as a qcow2 image
// without a backing file to f, an empty file:
//
//	cluster 0   header
//	cluster 1…  refcount table, refcount blocks, L1 table, L2 tables, data
//
// Clusters of zeros are not stored. The same disk gives the same bytes. It does
// not sync.
func Convert(ctx context.Context, f *os.File, disk io.ReaderAt, size int64) error {
	if size <= 0 || size > MaxSize || size%512 != 0 {
		return fmt.Errorf("qcow2: a disk of %d bytes: want a multiple of 512, at most %d", size, int64(MaxSize))
	}
	used, err := usedClusters(ctx, disk, size)
	if err != nil {
		return err
	}
	p := newPlan(size, used)
	if err := f.Truncate(p.total * clusterSize); err != nil {
		return err
	}
	if err := p.writeTables(f, size); err != nil {
		return err
	}
	return p.writeData(ctx, f, disk, size)
}

// usedClusters returns the numbers of the clusters that are not all zero.
func usedClusters(ctx context.Context, disk io.ReaderAt, size int64) ([]int64, error) {
	var used []int64
	buf, zero := make([]byte, clusterSize), make([]byte, clusterSize)
	file, isFile := disk.(*os.File)
	for at := int64(0); at < size; at += clusterSize {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if isFile { // over holes at once
			start, _, err := hostfs.SeekData(file, at, size)
			if err != nil {
				return nil, err
			}
			if start == size {
				break
			}
			at = start / clusterSize * clusterSize
		}
		chunk := buf[:min(clusterSize, size-at)]
		if err := readFull(disk, chunk, at); err != nil {
			return nil, err
		}
		if !bytes.Equal(chunk, zero[:len(chunk)]) {
			used = append(used, at/clusterSize)
		}
	}
	return used, nil
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// plan is where everything is, in clusters.
type plan struct {
	used                              []int64
	l1Entries                         int64
	tables                            []int64 // L1 indexes that have an L2 table
	refTable, refBlocks, l1, l2, data int64   // first cluster of each
	total                             int64
}

const perL2 = clusterSize / 8

func newPlan(size int64, used []int64) plan {
	p := plan{used: used, l1Entries: (size + perL1Entry - 1) / perL1Entry, refTable: 1}
	for _, c := range used {
		if n := len(p.tables); n == 0 || p.tables[n-1] != c/perL2 {
			p.tables = append(p.tables, c/perL2)
		}
	}
	l1 := ceil(p.l1Entries*8, clusterSize)
	rest := 1 + l1 + int64(len(p.tables)+len(used)) // the header and all but refcounts
	var blocks, table int64
	for { // refcounts count their own clusters
		total := rest + blocks + table
		b := ceil(total, refsPerBlock)
		t := ceil(b*8, clusterSize)
		if b == blocks && t == table {
			break
		}
		blocks, table = b, t
	}
	p.refBlocks = p.refTable + table
	p.l1 = p.refBlocks + blocks
	p.l2 = p.l1 + l1
	p.data = p.l2 + int64(len(p.tables))
	p.total = p.data + int64(len(used))
	return p
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }

func (p plan) writeTables(f *os.File, size int64) error {
	be := binary.BigEndian
	h := header(size, p.l1Entries, p.l1, p.refTable, p.refBlocks-p.refTable)
	var table, refs []byte
	for b := p.refBlocks; b < p.l1; b++ {
		table = be.AppendUint64(table, uint64(b*clusterSize))
	}
	for range p.total {
		refs = be.AppendUint16(refs, 1)
	}
	l1 := make([]byte, p.l1Entries*8)
	for i, entry := range p.tables {
		be.PutUint64(l1[entry*8:], uint64(p.l2+int64(i))*clusterSize|flagCopied)
	}
	l2 := make([]byte, int64(len(p.tables))*clusterSize)
	t := 0
	for i, c := range p.used {
		for p.tables[t] != c/perL2 {
			t++
		}
		be.PutUint64(l2[int64(t)*clusterSize+c%perL2*8:], uint64(p.data+int64(i))*clusterSize|flagCopied)
	}
	var errs []error
	for _, part := range []struct {
		data []byte
		at   int64
	}{{h, 0}, {table, p.refTable}, {refs, p.refBlocks}, {l1, p.l1}, {l2, p.l2}} {
		_, err := f.WriteAt(part.data, part.at*clusterSize)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (p plan) writeData(ctx context.Context, f *os.File, disk io.ReaderAt, size int64) error {
	buf := make([]byte, clusterSize)
	for i, c := range p.used {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := buf[:min(clusterSize, size-c*clusterSize)]
		if err := readFull(disk, chunk, c*clusterSize); err != nil {
			return err
		}
		if _, err := f.WriteAt(chunk, (p.data+int64(i))*clusterSize); err != nil {
			return err
		}
	}
	return nil
}

// header returns a header without a backing file and without extensions.
func header(size, l1Entries, l1, refTable, refTableClusters int64) []byte {
	be := binary.BigEndian
	h := append([]byte(nil), magic...)
	h = be.AppendUint32(h, 3)
	h = append(h, make([]byte, 12)...) // no backing file
	h = be.AppendUint32(h, clusterBits)
	h = be.AppendUint64(h, uint64(size))
	h = be.AppendUint32(h, 0) // no encryption
	h = be.AppendUint32(h, uint32(l1Entries))
	h = be.AppendUint64(h, uint64(l1*clusterSize))
	h = be.AppendUint64(h, uint64(refTable*clusterSize))
	h = be.AppendUint32(h, uint32(refTableClusters))
	h = append(h, make([]byte, 12+24)...) // no snapshots, no features
	h = be.AppendUint32(h, 4)             // refcounts of 1<<4 bits
	h = be.AppendUint32(h, headerSize)
	return append(h, make([]byte, 8)...) // end of extensions
}
