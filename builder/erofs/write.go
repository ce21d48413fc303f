package erofs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyBuffer is how much of a file is read at once, in bytes.
const copyBuffer = 1 << 20

// Write writes the tree below dir as a file system to f, which must be an
// empty regular file. It does not sync. Nothing may change the tree meanwhile:
// a file whose size changes is an error. What is left in f after an error is
// of no use. Errors wrap the file systems' own, such as ENOSPC.
func Write(ctx context.Context, f *os.File, dir string) error {
	t, err := scan(ctx, dir)
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	blocks, err := layout(t.nodes)
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(blocks) * blockSize); err != nil {
		return err
	}
	w := writer{out: f, buf: make([]byte, copyBuffer)}
	for i, n := range t.nodes {
		if err := w.node(ctx, n, uint32(i+1)); err != nil {
			return err
		}
	}
	return w.super(t.nodes[0].nid, uint64(len(t.nodes)), uint32(blocks))
}

type writer struct {
	out  *os.File
	buf  []byte
	head []byte // reused for each inode
}

// node writes an inode, its attributes and its data.
func (w *writer) node(ctx context.Context, n *node, ino uint32) error {
	w.head = append(encodeInode(w.head[:0], n, ino), n.xattrs...)
	var data []byte
	switch {
	case n.isDir():
		data = encodeDir(n.entries)
	case n.target != "":
		data = []byte(n.target)
	case n.path != "":
		return w.file(ctx, n)
	}
	whole := len(data) - n.inline
	if whole > 0 {
		if _, err := w.out.WriteAt(data[:whole], int64(n.block)*blockSize); err != nil {
			return err
		}
	}
	return w.inode(n, data[whole:])
}

// inode writes w.head and the data that follows it.
func (w *writer) inode(n *node, inline []byte) error {
	_, err := w.out.WriteAt(append(w.head, inline...), int64(n.nid)*slotSize)
	return err
}

// file copies a regular file's data and writes its inode.
func (w *writer) file(ctx context.Context, n *node) error {
	in, err := os.OpenFile(n.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	whole := n.size - int64(n.inline)
	if err := w.copy(ctx, in, whole, int64(n.block)*blockSize); err != nil {
		return fmt.Errorf("copy %s: %w", n.path, err)
	}
	tail := w.buf[:n.inline]
	if err := readFull(in, tail, whole); err != nil {
		return fmt.Errorf("copy %s: %w", n.path, err)
	}
	if st, err := in.Stat(); err != nil || st.Size() != n.size {
		return fmt.Errorf("copy %s: %w", n.path, cmp.Or(err, errChanged))
	}
	return w.inode(n, tail)
}

var errChanged = errors.New("the file changed while it was read")

// copy copies size bytes of in to the image's offset at, data only: what in has
// as holes stays unwritten.
func (w *writer) copy(ctx context.Context, in *os.File, size, at int64) error {
	for pos := int64(0); pos < size; {
		start, end, err := nextData(in, pos, size)
		if err != nil {
			return err
		}
		for pos = start; pos < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			chunk := w.buf[:min(int64(len(w.buf)), end-pos)]
			if err := readFull(in, chunk, pos); err != nil {
				return err
			}
			if _, err := w.out.WriteAt(chunk, at+pos); err != nil {
				return err
			}
			pos += int64(len(chunk))
		}
	}
	return nil
}

// readFull fills b from offset at; a file that ends before has changed.
func readFull(in *os.File, b []byte, at int64) error {
	n, err := in.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errChanged
	}
	return err
}

// nextData returns the first range of data at or after pos, cut at size;
// start is size where there is none.
func nextData(in *os.File, pos, size int64) (start, end int64, err error) {
	if size <= copyBuffer { // holes of small files are not worth two calls
		return pos, size, nil
	}
	start, err = in.Seek(pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case err != nil: // the file system cannot tell
		return pos, size, nil
	}
	end, err = in.Seek(start, unix.SEEK_HOLE)
	return min(start, size), min(end, size), err
}

// super writes the superblock, last.
func (w *writer) super(rootNID, inodes uint64, blocks uint32) error {
	block := make([]byte, blockSize)
	if _, err := w.out.ReadAt(block, 0); err != nil {
		return err
	}
	if rootNID >= 1<<16 {
		return fmt.Errorf("root directory at node id %d, at most 65535 is possible", rootNID)
	}
	encodeSuper(block, uint16(rootNID), inodes, blocks)
	_, err := w.out.WriteAt(block, 0)
	return err
}
