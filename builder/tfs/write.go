package tfs

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"containerd-shim-uni/builder/tree"
)

const (
	// firstData is the sector where data begin: a page behind the start, so
	// that data are aligned as on the host.
	firstData = 8
	pageSize  = 4096
	// maxExtent is the most bytes of one extent the kernel itself makes
	// (MAX_EXTENT_SIZE of src/fs/tfs.h).
	maxExtent = 8192 * pageSize
	// recordSize is about how many bytes of a directory go in one record.
	recordSize = 64 << 10
	// configAlign is where the last extension begins: it and what Append adds
	// fill whole clusters of a copy-on-write layer.
	configAlign = 64 << 10
	copyBuffer  = 1 << 20
)

// defaultUUID is the UUID of every root: one alone is attached to a machine. A
// random (version 4) one.
var defaultUUID = [uuidSize]byte{0x5c, 0x1d, 0x3a, 0x8e, 0x0b, 0x7f, 0x4e, 0x52, 0x9a, 0x46, 0xd1, 0x6b, 0x2f, 0x90, 0xc3, 0x77}

// writer writes one file system at base of a disk.
type writer struct {
	ctx  context.Context
	out  *os.File
	base int64
	end  int64 // of the data so far, in bytes from base

	buf   []byte // data not yet written
	bufAt int64  // where they belong, from base
	log   *logWriter
	enc   *encoder
}

// head is what the first sector says of a file system.
type head struct {
	label string
	uuid  [uuidSize]byte
}

func (h head) check() error {
	if len(h.label) >= labelMax || strings.Contains(h.label, "\x00") {
		return fmt.Errorf("label %.100q: at most %d bytes, none of them zero, are possible: %w", h.label, labelMax-1, ErrFormat)
	}
	return nil
}

func newWriter(ctx context.Context, f *os.File, base int64) *writer {
	return &writer{ctx: ctx, out: f, base: base, end: firstData * sectorSize,
		buf: make([]byte, 0, copyBuffer), enc: newEncoder()}
}

// tree writes nodes, which collect made of root, and returns how many bytes
// that takes. Beyond is nothing.
func (w *writer) tree(root *tree.Node, nodes []*node, h head, s Settings) (int64, error) {
	for _, n := range nodes {
		if n.IsFile() && n.Size > 0 {
			if err := w.file(n); err != nil {
				return 0, fmt.Errorf("copy %.300q: %w", root.PathOf(n.Node), err)
			}
		}
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	first := uint64(roundUp(w.end, pageSize) / sectorSize)
	if err := w.metadata(nodes, first, s); err != nil {
		return 0, err
	}
	return w.end, writeHead(w.out, w.base, first, h)
}

// file copies a file's data and notes where they are.
func (w *writer) file(n *node) error {
	in, err := n.Data.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	sparse, _ := in.(tree.Sparse)
	for pos := int64(0); pos < n.Size; {
		start, end := pos, n.Size
		if sparse != nil {
			if start, end, err = sparse.NextData(pos, n.Size); err != nil {
				return err
			}
		}
		start = start / pageSize * pageSize
		for pos = max(pos, start); pos < end; {
			size := min(end-pos, maxExtent)
			if err := w.extent(in, n, pos, size); err != nil {
				return err
			}
			pos += roundUp(size, sectorSize)
		}
		if start >= n.Size || end >= n.Size {
			break
		}
	}
	return nil
}

// extent copies size bytes of in from pos.
func (w *writer) extent(in io.ReaderAt, n *node, pos, size int64) error {
	at := roundUp(w.end, sectorSize)
	if size >= pageSize {
		at = roundUp(w.end, pageSize)
	}
	sectors := uint64(roundUp(size, sectorSize) / sectorSize)
	n.extents = append(n.extents, extent{uint64(pos / sectorSize), uint64(at / sectorSize), sectors})
	w.end = at + size
	if err := w.seek(at); err != nil {
		return err
	}
	for size > 0 {
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		room := w.buf[len(w.buf):min(int64(cap(w.buf)), int64(len(w.buf))+size)]
		if err := tree.ReadFull(in, room, pos); err != nil {
			return err
		}
		w.buf = w.buf[:len(w.buf)+len(room)]
		pos += int64(len(room))
		size -= int64(len(room))
	}
	return nil
}

// seek makes the next data of the buffer those at a position.
func (w *writer) seek(at int64) error {
	gap := at - w.bufAt - int64(len(w.buf))
	if gap == 0 {
		return nil
	}
	if gap > 0 && gap < pageSize && int64(len(w.buf))+gap < int64(cap(w.buf)) {
		old := len(w.buf)
		w.buf = w.buf[:old+int(gap)]
		clear(w.buf[old:])
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.bufAt = at
	return nil
}

// flush writes the buffer.
func (w *writer) flush() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.out.WriteAt(w.buf, w.base+w.bufAt)
	w.bufAt += int64(len(w.buf))
	w.buf = w.buf[:0]
	return err
}

// metadata writes the log from sector first on.
func (w *writer) metadata(nodes []*node, first uint64, s Settings) error {
	w.log = newLogWriter(w.out, w.base, first)
	if err := w.rootRecord(nodes[0], s); err != nil {
		return err
	}
	for _, n := range nodes {
		if n.IsDir() {
			if err := w.directory(n); err != nil {
				return err
			}
		}
	}
	after := w.base + int64(w.log.sector)*sectorSize + extensionSize
	last := uint64(roundUp(after, configAlign)-w.base) / sectorSize
	if err := w.log.flushTo(last); err != nil {
		return err
	}
	w.end = int64(last)*sectorSize + extensionSize
	return w.log.close()
}

// rootRecord makes the root, whose index is 1, with no entries yet.
func (w *writer) rootRecord(root *node, s Settings) error {
	root.index = w.enc.tuple(1)
	w.enc.symbol(attrChildren)
	root.kids = w.enc.tuple(0)
	if err := w.emit(); err != nil || len(s) == 0 {
		return err
	}
	w.enc.again(root.index, len(s))
	if !w.enc.settings(s) {
		return errSetting
	}
	return w.emit()
}

// emit writes the record in the encoder.
func (w *writer) emit() error {
	err := w.log.record(w.enc.b)
	w.enc.b = w.enc.b[:0]
	return err
}

// directory writes the entries of a directory whose tuple is in the log, in
// records that the kernel takes one by one.
func (w *writer) directory(n *node) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	for rest := n.entries; len(rest) > 0; {
		size, count := 0, 0
		for count < len(rest) && size < recordSize {
			size += len(rest[count].name) + 48 + 24*len(rest[count].node.extents)
			count++
		}
		w.enc.again(n.kids, count)
		for _, e := range rest[:count] {
			w.enc.symbol(e.name)
			w.node(e.node)
		}
		if err := w.emit(); err != nil {
			return err
		}
		rest = rest[count:]
	}
	return nil
}

// node appends a file: all of it under its first name, a reference under others.
func (w *writer) node(n *node) {
	if n.index > 0 {
		w.enc.again(n.index, 0)
		return
	}
	extra := n.attributes()
	switch {
	case n.IsFile():
		n.index = w.enc.fileTuple(n.Size, n.extents, len(extra))
	case n.IsLink():
		n.index = w.enc.tuple(1 + len(extra))
		w.enc.symbol(attrLinkTarget)
		w.enc.string(n.Target)
	default:
		n.index = w.enc.tuple(1 + len(extra))
		w.enc.symbol(attrChildren)
		n.kids = w.enc.tuple(0)
	}
	w.enc.settings(extra)
}

// writeHead writes the first sector of the file system at base, which leads to
// the sector where the log goes on.
func writeHead(out io.WriterAt, base int64, first uint64, h head) error {
	b := newExtension(nil, sectorSize)
	b = append(b, h.uuid[:]...)
	b = append(b, h.label...)
	b = append(b, 0)
	_, err := out.WriteAt(appendLink(b, first), base)
	return err
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
