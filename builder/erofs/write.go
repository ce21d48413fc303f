package erofs

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"containerd-shim-uni/builder/tree"
)

// copyBuffer is how much of a file is read at once, in bytes.
const copyBuffer = 1 << 20

// Write writes a tree as a file system to f, which must be an empty regular
// file. It does not sync. Memory for metadata grows with the number of files;
// contents pass through one buffer. What is left in f after an error is of no
// use. Errors wrap the file systems' own, such as ENOSPC; ENOTDIR is a root that
// is no directory.
func Write(ctx context.Context, f *os.File, root *tree.Node) error {
	nodes, err := collect(root)
	if err != nil {
		return err
	}
	blocks, err := layout(nodes)
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(blocks) * blockSize); err != nil {
		return err
	}
	w := writer{out: f, buf: make([]byte, copyBuffer)}
	for i, n := range nodes {
		if err := w.node(ctx, n, uint32(i+1)); err != nil {
			return err
		}
	}
	return w.super(nodes[0].nid, uint64(len(nodes)), uint32(blocks))
}

// WriteDir writes the tree below a directory of the host. Nothing may change
// it meanwhile.
func WriteDir(ctx context.Context, f *os.File, dir string) error {
	root, err := tree.Scan(ctx, dir)
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	return Write(ctx, f, root)
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
	case n.IsDir():
		data = encodeDir(n.entries)
	case n.IsLink():
		data = []byte(n.Target)
	case n.size > 0:
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
	in, err := n.Data.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	whole := n.size - int64(n.inline)
	if err := w.copy(ctx, in, n.size, whole, int64(n.block)*blockSize); err != nil {
		return fmt.Errorf("copy contents: %w", err)
	}
	tail := w.buf[:n.inline]
	if err := tree.ReadFull(in, tail, whole); err != nil {
		return fmt.Errorf("copy contents: %w", err)
	}
	return w.inode(n, tail)
}

// copy copies the first whole bytes of in, which has size, to the image's
// offset at, data only: holes and chunks of zeros stay unwritten.
func (w *writer) copy(ctx context.Context, in tree.Content, size, whole, at int64) error {
	sparse, _ := in.(tree.Sparse)
	for pos := int64(0); pos < whole; {
		end := whole
		if sparse != nil {
			var err error
			if pos, end, err = sparse.NextData(pos, size); err != nil {
				return err
			}
			end = min(end, whole)
		}
		for pos < end {
			if err := ctx.Err(); err != nil {
				return err
			}
			chunk := w.buf[:min(int64(len(w.buf)), end-pos)]
			if err := tree.ReadFull(in, chunk, pos); err != nil {
				return err
			}
			if !isZero(chunk) {
				if _, err := w.out.WriteAt(chunk, at+pos); err != nil {
					return err
				}
			}
			pos += int64(len(chunk))
		}
	}
	return nil
}

var zeros [blockSize]byte

// isZero stops at the first block with data.
func isZero(b []byte) bool {
	for len(b) >= blockSize {
		if !bytes.Equal(b[:blockSize], zeros[:]) {
			return false
		}
		b = b[blockSize:]
	}
	return bytes.Equal(b, zeros[:len(b)])
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
