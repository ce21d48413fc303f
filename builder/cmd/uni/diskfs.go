package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/builder/tree"
)

// diskFS is what a disk's file system says of itself. Kernel and Program are of
// one that boots.
type diskFS struct {
	Name    string
	Version int // 0 for a file system without one
	UUID    string
	Label   string
	Kernel  string // digest of what is on the disk
	Program string
}

// readFS reads the file system of a disk of size bytes, and all its metadata.
func readFS(ctx context.Context, disk io.ReaderAt, size int64) (*diskFS, *tree.Node, error) {
	if tfs.Is(disk) {
		return readTFS(ctx, disk, size)
	}
	fs, err := reader.Open(disk, size)
	if err != nil {
		return nil, nil, err
	}
	root, err := fs.Tree(ctx)
	return &diskFS{Name: "erofs", UUID: fs.UUID, Label: fs.Volume}, root, err
}

// readTFS reads a disk with a boot loader, or a volume.
func readTFS(ctx context.Context, disk io.ReaderAt, size int64) (*diskFS, *tree.Node, error) {
	d := &diskFS{Name: "tfs", Version: tfs.Version}
	fs, err := tfs.ReadVolume(disk, size)
	if err != nil {
		m, err := tfs.Open(disk, size)
		if err != nil {
			return nil, nil, err
		}
		if d.Kernel, err = kernelDigest(m); err != nil {
			return nil, nil, err
		}
		fs = m.Root
	}
	u := fs.UUID
	d.UUID, d.Label = fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), fs.Label
	d.Program, _ = fs.Root.Get("program").(string)
	root, err := fs.Tree(ctx)
	return d, root, err
}

// kernelDigest returns the digest of the kernel on a disk.
func kernelDigest(m *tfs.Image) (string, error) {
	boot, err := m.Boot()
	if err != nil {
		return "", err
	}
	kernel, err := boot.Lookup("kernel")
	if err != nil {
		return "", err
	}
	if kernel.Size() > tfs.MaxKernel {
		return "", fmt.Errorf("the kernel has %d bytes: %w", kernel.Size(), tfs.ErrFormat)
	}
	r, err := kernel.Reader()
	if err != nil {
		return "", fmt.Errorf("kernel: %w", err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return "", fmt.Errorf("kernel: %w", err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}
