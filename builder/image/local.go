package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"containerd-shim-uni/unikernel"
)

const (
	layoutFile         = "oci-layout"
	indexFile          = "index.json"
	dockerManifestFile = "manifest.json"

	annotationRefName   = "org.opencontainers.image.ref.name"
	annotationImageName = "io.containerd.image.name"
)

// files is a layout's or an archive's files by name, slashes between parts.
type files interface {
	openFile(name string) (io.ReadCloser, int64, error)
	Close() error
}

// layoutDir is a directory. os.Root keeps links in it from leading out.
type layoutDir struct{ *os.Root }

func (d layoutDir) openFile(name string) (io.ReadCloser, int64, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file: %w", name, unikernel.ErrInvalid)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// fileBlobs are the blobs of a layout.
type fileBlobs struct{ files }

func (b fileBlobs) open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if d.Digest.Algorithm != "sha256" || len(d.Digest.Hex) != 64 || strings.Trim(d.Digest.Hex, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("digest %q: %w", d.Digest, unikernel.ErrInvalid)
	}
	r, _, err := b.openFile("blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex)
	return r, missing(err)
}

// missing makes a missing file an unikernel.ErrNotFound.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", unikernel.ErrNotFound, err)
	}
	return err
}

// openPath opens a layout's directory or an archive.
func openPath(ctx context.Context, path, name string, want *v1.Platform, o Options) (*Image, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, missing(err)
	}
	if !st.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		return openArchive(ctx, f, path, name, want, o)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return closeOnError(openFiles(ctx, layoutDir{root}, path, name, want))
}

// closeOnError closes fs when no image took it.
func closeOnError(fs files, i *Image, err error) (*Image, error) {
	if err != nil {
		return nil, errors.Join(err, fs.Close())
	}
	return i, nil
}

// openStdin keeps the archive that comes from a pipe.
func openStdin(ctx context.Context, want *v1.Platform, o Options) (*Image, error) {
	if o.Stdin == nil {
		return nil, fmt.Errorf("no standard input: %w", unikernel.ErrInvalid)
	}
	f, err := unnamedFile(o.TempDir)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, contextReader{ctx, o.Stdin}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return openArchive(ctx, f, "standard input", "", want, o)
}

func openArchive(ctx context.Context, f *os.File, path, name string, want *v1.Platform, o Options) (*Image, error) {
	a, err := readArchive(ctx, f, o.TempDir)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", path, errors.Join(err, f.Close()))
	}
	return closeOnError(openFiles(ctx, a, path, name, want))
}

// openFiles finds the image in a layout, or else in what docker saved.
func openFiles(ctx context.Context, from files, path, name string, want *v1.Platform) (files, *Image, error) {
	var index v1.IndexManifest
	err := readJSON(from, indexFile, &index)
	if err == nil {
		f := finder{blobs: fileBlobs{from}, source: path, want: want}
		descs := index.Manifests
		if name != "" {
			descs = slices.DeleteFunc(descs, func(d v1.Descriptor) bool { return !named(d, name) })
			if len(descs) == 0 {
				return from, nil, fmt.Errorf("%s: no image %q: %w", path, name, unikernel.ErrNotFound)
			}
		}
		i, err := f.find(ctx, descs, from.Close)
		return from, i, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return from, nil, fmt.Errorf("%s: %w", path, err)
	}
	i, err := openDocker(from, path, name, want)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s is no image: it has neither %s nor %s: %w", path, indexFile, dockerManifestFile, unikernel.ErrInvalid)
	}
	return from, i, err
}

func named(d v1.Descriptor, name string) bool {
	return d.Annotations[annotationRefName] == name || d.Annotations[annotationImageName] == name || d.Digest.String() == name
}

func readFileBytes(from files, name string) ([]byte, error) {
	r, size, err := from.openFile(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > maxManifest {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read: %w", name, size, maxManifest, unikernel.ErrInvalid)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	return data, nil
}

func readJSON(from files, name string, v any) error {
	data, err := readFileBytes(from, name)
	if err != nil {
		return err
	}
	if err := unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
