package tfs

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
)

// FS is a file system that was read. Only its log is in memory.
type FS struct {
	UUID  [uuidSize]byte
	Label string
	Root  *Tuple

	in   io.ReaderAt
	base int64
	size int64      // in bytes
	mu   sync.Mutex // for opening files: that decodes
	dec  *decoder
	// last is the sector of the last extension, lastIsUsed whether it holds any
	// record.
	last       uint64
	lastSize   int64
	lastIsUsed bool
}

// Read reads the file system in size bytes at base of a disk. Whatever the
// bytes are, it returns a file system or an error that wraps ErrFormat, or one
// of reading.
func Read(in io.ReaderAt, base, size int64) (*FS, error) {
	fs := &FS{in: in, base: base, size: size, dec: newDecoder()}
	if err := fs.readLog(); err != nil {
		return nil, fmt.Errorf("file system at byte %d: %w", base, err)
	}
	if kind, err := fs.dec.kind(1); err == nil && kind == typeTuple {
		fs.Root = fs.dec.tuple(1)
	}
	if fs.Root == nil || fs.Root.child(attrChildren) == nil {
		return nil, fmt.Errorf("file system at byte %d: no root directory: %w", base, ErrFormat)
	}
	return fs, nil
}

// readLog follows the chain of extensions.
func (fs *FS) readLog() error {
	x := extension{fs: fs}
	total := int64(0)
	sector, size := uint64(0), int64(sectorSize)
	seen := map[uint64]bool{}
	for {
		if total += size; total > maxLog || seen[sector] {
			return fmt.Errorf("the log has no end: %w", ErrFormat)
		}
		seen[sector] = true
		// What is no log says so in its first sector, whatever size it claims.
		for _, n := range []int64{min(size, sectorSize), size} {
			if err := fs.sectors(&x.b, sector, n); err != nil {
				return err
			}
			if !bytes.HasPrefix(x.b, []byte(magic)) {
				return fmt.Errorf("log at sector %d: no TFS is there: %w", sector, ErrFormat)
			}
		}
		if x.at, x.records = 0, 0; len(seen) == 2 {
			fs.dec.expect()
		}
		if err := x.header(sector == 0); err != nil {
			return fmt.Errorf("log at sector %d: %w: %w", sector, err, ErrFormat)
		}
		linked, err := x.frames()
		if err != nil {
			return fmt.Errorf("log at sector %d, byte %d: %w: %w", sector, x.at, err, ErrFormat)
		}
		if !linked {
			if x.left > 0 {
				return fmt.Errorf("the log ends in a record: %w", ErrFormat)
			}
			fs.last, fs.lastSize, fs.lastIsUsed = sector, size, x.records > 0
			return nil
		}
		sector, size = x.next, int64(x.nextSectors)*sectorSize
	}
}

// sectors reads part of the file system to b. What is beyond the end of the
// disk reads as zero.
func (fs *FS) sectors(b *[]byte, at uint64, size int64) error {
	if at > uint64(fs.size/sectorSize) || size <= 0 || size > fs.size-int64(at)*sectorSize {
		return fmt.Errorf("%d bytes at sector %d are beyond the end: %w", size, at, ErrFormat)
	}
	if int64(cap(*b)) < size {
		*b = make([]byte, size)
	}
	*b = (*b)[:size]
	n, err := fs.in.ReadAt(*b, fs.base+int64(at)*sectorSize)
	clear((*b)[n:])
	if err == io.EOF {
		err = nil
	}
	return err
}

// extension is one extension of the log while it is read.
type extension struct {
	fs      *FS
	b       []byte
	at      int // in b
	records int
	left    uint64 // bytes of a record that are to come
	start   int    // of the record, in the decoder's text

	next, nextSectors uint64
}

func (x *extension) number() (uint64, error) {
	v, n, err := group(x.b[x.at:], 0)
	x.at += n
	return v, err
}

// bytes goes over n bytes.
func (x *extension) bytes(n uint64) ([]byte, error) {
	if n > uint64(len(x.b)-x.at) {
		return nil, errShort
	}
	b := x.b[x.at:][:n]
	x.at += int(n)
	return b, nil
}

func (x *extension) header(first bool) error {
	name, err := x.bytes(uint64(len(magic)))
	if err != nil || string(name) != magic {
		return fmt.Errorf("no TFS is there")
	}
	if v, err := x.number(); err != nil || v != Version {
		return fmt.Errorf("version %d, only %d can be read", v, Version)
	}
	if _, err := x.number(); err != nil || !first {
		return err
	}
	uuid, err := x.bytes(uuidSize)
	if err != nil {
		return err
	}
	copy(x.fs.UUID[:], uuid)
	end := bytes.IndexByte(x.b[x.at:], 0)
	if end < 0 || end >= labelMax {
		return fmt.Errorf("its label has no end")
	}
	label, err := x.bytes(uint64(end) + 1)
	x.fs.Label = string(label[:end])
	return err
}

// frames reads up to the end of the log, or a link.
func (x *extension) frames() (linked bool, err error) {
	for {
		kind, err := x.bytes(1)
		if err != nil {
			return false, err
		}
		switch kind[0] {
		case frameEnd:
			return false, nil
		case frameEndOfPart:
		case frameLink:
			if x.next, err = x.number(); err == nil {
				x.nextSectors, err = x.number()
			}
			if err == nil && x.nextSectors > maxExtension/sectorSize {
				err = fmt.Errorf("an extension of %d sectors", x.nextSectors)
			}
			return true, err
		case frameRecord:
			if x.left > 0 {
				return false, fmt.Errorf("a record begins inside of another")
			}
			if x.left, err = x.number(); err == nil {
				x.start = len(x.fs.dec.text)
				err = x.part()
			}
		case framePart:
			err = x.part()
		default:
			err = fmt.Errorf("frame %#x", kind)
		}
		if err != nil {
			return false, err
		}
	}
}

// part reads a part of a record, and takes in the record when it is whole.
func (x *extension) part() error {
	n, err := x.number()
	if err != nil {
		return err
	}
	b, err := x.bytes(n)
	if err != nil || n > x.left {
		return fmt.Errorf("a part of %d bytes where %d are missing", n, x.left)
	}
	x.left -= n
	x.records++
	d := x.fs.dec
	if cap(d.text)-len(d.text) < len(b) { // doubled: which costs twice what it holds
		d.text = slices.Grow(d.text, max(len(b), len(d.text)))
	}
	if d.text = append(d.text, b...); x.left > 0 {
		return nil
	}
	if err := d.record(x.start); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}
