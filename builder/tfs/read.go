package tfs

import (
	"fmt"
	"io"
	"strings"
)

// FS is a file system that was read. Only its log is in memory.
type FS struct {
	UUID  [uuidSize]byte
	Label string
	Root  *Tuple

	in   io.ReaderAt
	base int64
	size int64 // in bytes
	dec  decoder
	// last is the sector of the last extension, lastEnd how many of its bytes
	// are used, and records whether it holds any record.
	last       uint64
	lastEnd    int
	lastSize   int64
	lastIsUsed bool
}

// Read reads the file system in size bytes at base of a disk. Whatever the
// bytes are, it returns a file system or an error that wraps ErrFormat, or one
// of reading.
func Read(in io.ReaderAt, base, size int64) (*FS, error) {
	fs := &FS{in: in, base: base, size: size, dec: decoder{symbols: map[string]uint64{}}}
	if err := fs.readLog(); err != nil {
		return nil, fmt.Errorf("file system at byte %d: %w", base, err)
	}
	if len(fs.dec.dictionary) > 0 {
		fs.Root, _ = fs.dec.dictionary[0].(*Tuple)
	}
	if fs.Root == nil || fs.Root.child(attrChildren) == nil {
		return nil, fmt.Errorf("file system at byte %d: no root directory: %w", base, ErrFormat)
	}
	return fs, nil
}

// readLog follows the chain of extensions.
func (fs *FS) readLog() error {
	var pending []byte // parts of a record
	var left uint64    // bytes of it to come
	total := int64(0)
	sector, size := uint64(0), int64(sectorSize)
	seen := map[uint64]bool{}
	for {
		if total += size; total > maxLog || seen[sector] {
			return fmt.Errorf("the log has no end: %w", ErrFormat)
		}
		seen[sector] = true
		b, err := fs.sectors(sector, size)
		if err != nil {
			return err
		}
		if fs.dec.dictionary == nil && sector > 0 { // about what one extension holds
			fs.dec.dictionary = make([]any, 0, 16<<10)
			fs.dec.symbols = make(map[string]uint64, 4<<10)
		}
		x := extension{fs: fs, r: decoder{b: string(b)}, pending: pending, left: left}
		if err := x.header(sector == 0); err != nil {
			return fmt.Errorf("log at sector %d: %w: %w", sector, err, ErrFormat)
		}
		linked, err := x.frames()
		if err != nil {
			return fmt.Errorf("log at sector %d, byte %d: %w: %w", sector, len(b)-len(x.r.b), err, ErrFormat)
		}
		if !linked {
			if x.left > 0 {
				return fmt.Errorf("the log ends in a record: %w", ErrFormat)
			}
			fs.last, fs.lastEnd, fs.lastSize, fs.lastIsUsed = sector, len(b)-len(x.r.b)-1, size, x.records > 0
			return nil
		}
		pending, left = x.pending, x.left
		sector, size = x.next, int64(x.nextSectors)*sectorSize
	}
}

// sectors reads part of the file system. What is beyond the end of the disk
// reads as zero.
func (fs *FS) sectors(at uint64, size int64) ([]byte, error) {
	if at > uint64(fs.size/sectorSize) || size <= 0 || size > fs.size-int64(at)*sectorSize {
		return nil, fmt.Errorf("%d bytes at sector %d are beyond the end: %w", size, at, ErrFormat)
	}
	b := make([]byte, size)
	_, err := fs.in.ReadAt(b, fs.base+int64(at)*sectorSize)
	if err == io.EOF {
		err = nil
	}
	return b, err
}

// extension is one extension of the log while it is read.
type extension struct {
	fs      *FS
	r       decoder // for its numbers
	records int
	pending []byte
	left    uint64

	next, nextSectors uint64
}

func (x *extension) header(first bool) error {
	name, err := x.r.bytes(uint64(len(magic)))
	if err != nil || name != magic {
		return fmt.Errorf("no TFS is there")
	}
	if v, err := x.r.group(0); err != nil || v != version {
		return fmt.Errorf("version %d, only %d can be read", v, version)
	}
	if _, err := x.r.group(0); err != nil || !first {
		return err
	}
	uuid, err := x.r.bytes(uuidSize)
	if err != nil {
		return err
	}
	copy(x.fs.UUID[:], uuid)
	end := strings.IndexByte(x.r.b, 0)
	if end < 0 || end >= labelMax {
		return fmt.Errorf("its label has no end")
	}
	x.fs.Label = x.r.b[:end]
	x.r.b = x.r.b[end+1:]
	return nil
}

// frames reads up to the end of the log, or a link.
func (x *extension) frames() (linked bool, err error) {
	for {
		kind, err := x.r.byte()
		if err != nil {
			return false, err
		}
		switch kind {
		case frameEnd:
			return false, nil
		case frameEndOfPart:
		case frameLink:
			if x.next, err = x.r.group(0); err == nil {
				x.nextSectors, err = x.r.group(0)
			}
			if err == nil && x.nextSectors > maxLog/sectorSize {
				err = fmt.Errorf("an extension of %d sectors", x.nextSectors)
			}
			return true, err
		case frameRecord:
			if x.left > 0 {
				return false, fmt.Errorf("a record begins inside of another")
			}
			if x.left, err = x.r.group(0); err == nil {
				x.pending = x.pending[:0]
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
	n, err := x.r.group(0)
	if err != nil {
		return err
	}
	b, err := x.r.bytes(n)
	if err != nil || n > x.left {
		return fmt.Errorf("a part of %d bytes where %d are missing", n, x.left)
	}
	x.left -= n
	x.records++
	if x.left > 0 {
		x.pending = append(x.pending, b...)
		return nil
	}
	if len(x.pending) > 0 {
		b = string(x.pending) + b
		x.pending = nil
	}
	if err := x.fs.dec.record(b); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}
