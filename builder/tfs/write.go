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
)

// defaultUUID is the UUID of every root: one alone is attached to a machine. A
// random (version 4) one.
var defaultUUID = [uuidSize]byte{0x5c, 0x1d, 0x3a, 0x8e, 0x0b, 0x7f, 0x4e, 0x52, 0x9a, 0x46, 0xd1, 0x6b, 0x2f, 0x90, 0xc3, 0x77}

// writer writes one file system at base of a disk.
type writer struct {
	ctx  context.Context
	out  *os.File
	base int64
	log  *logWriter
	enc  *encoder
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
	return &writer{ctx: ctx, out: f, base: base, enc: newEncoder()}
}

// tree writes nodes, which collect made of root, and returns how many bytes
// that takes. Beyond is nothing.
func (w *writer) tree(root *tree.Node, nodes []*node, h head, s Settings) (int64, error) {
	end, err := copyData(w.ctx, w.out, w.base, firstData*sectorSize, root, nodes)
	if err != nil {
		return 0, err
	}
	first := uint64(roundUp(end, pageSize) / sectorSize)
	size, err := w.metadata(nodes, first, s)
	if err != nil {
		return 0, err
	}
	return size, writeHead(w.out, w.base, first, h)
}

// metadata writes the log from sector first on, and returns where it ends.
func (w *writer) metadata(nodes []*node, first uint64, s Settings) (end int64, err error) {
	w.log = newLogWriter(w.out, w.base, first)
	if err := w.rootRecord(nodes[0], s); err != nil {
		return 0, err
	}
	for _, n := range nodes {
		if n.IsDir() {
			if err := w.directory(n); err != nil {
				return 0, err
			}
		}
	}
	after := w.base + int64(w.log.sector)*sectorSize + extensionSize
	last := uint64(roundUp(after, configAlign)-w.base) / sectorSize
	if err := w.log.flushTo(last); err != nil {
		return 0, err
	}
	return int64(last)*sectorSize + extensionSize, w.log.close()
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
