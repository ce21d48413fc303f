package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"containerd-shim-uni/builder/decompress"
	"containerd-shim-uni/unikernel"
)

// Pull writes the disk of an artefact to f, an empty file, and returns its
// format and what it says of itself. What is in f is verified only when Pull
// returns without an error.
func Pull(ctx context.Context, f *os.File, reference string, o Options) (format string, m Manifest, err error) {
	ref, err := ParseReference(reference, o.PlainHTTP)
	if err != nil {
		return "", m, err
	}
	puller, err := remote.NewPuller(remoteOptions(ctx, o)...)
	if err != nil {
		return "", m, err
	}
	d, err := puller.Get(ctx, ref)
	if err != nil {
		return "", m, registryError(ref.String(), err)
	}
	var a artefact
	if err := unmarshal(d.Manifest, &a); err != nil {
		return "", m, fmt.Errorf("%s: %w", ref, err)
	}
	if a.ArtifactType != ArtifactType || len(a.Layers) != 1 {
		return "", m, invalid("%s is no disk of uni push: make one of the image with uni build", ref)
	}
	from := &repository{ref.Context(), puller, d}
	diffID, err := readDiffID(ctx, from, a.Config)
	if err != nil {
		return "", m, fmt.Errorf("%s: configuration: %w", ref, err)
	}
	info, err := pullLayer(ctx, f, from, a.Layers[0], diffID, o.Progress)
	if err != nil {
		return "", m, fmt.Errorf("%s: %w", ref, err)
	}
	return info.Format, info.Manifest, nil
}

func readDiffID(ctx context.Context, from blobs, d v1.Descriptor) (v1.Hash, error) {
	var config runnable
	data, err := readBlob(ctx, from, d)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := unmarshal(data, &config); err != nil {
		return v1.Hash{}, err
	}
	if len(config.RootFS.DiffIDs) != 1 {
		return v1.Hash{}, invalid("it has %d diff IDs", len(config.RootFS.DiffIDs))
	}
	return config.RootFS.DiffIDs[0], nil
}

// pullLayer writes the disk in a layer to f and verifies all of the layer.
func pullLayer(ctx context.Context, f *os.File, from blobs, d v1.Descriptor, diffID v1.Hash, p *Progress) (diskInfo, error) {
	body, err := from.open(ctx, d)
	if err != nil {
		return diskInfo{}, err
	}
	defer body.Close()
	p.expect(d.Size)
	blob := newVerifier(p.reader(contextReader{ctx, body}), d.Digest, d.Size)
	plain, _, err := decompress.Reader(blob)
	if err != nil {
		return diskInfo{}, err
	}
	defer plain.Close()
	sum := sha256.New()
	tee := io.TeeReader(plain, sum)
	info, err := unpackDisk(f, tee)
	if err == nil {
		if _, err = io.CopyBuffer(writerOnly{io.Discard}, tee, make([]byte, spoolBuffer)); err == nil {
			err = sameDigest(sum, diffID)
		}
	}
	if ctx.Err() != nil {
		return info, ctx.Err()
	}
	// A blob that is not what it should be explains what else is wrong.
	if berr := blob.check(); err == nil || errors.Is(berr, ErrDigest) {
		err = berr
	}
	if err != nil && !isInvalid(err) && !errors.Is(err, unikernel.ErrNotImplemented) && !errors.As(err, new(*os.PathError)) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return info, err
}

// unpackDisk writes the disk in a layer's tar file to f.
func unpackDisk(f *os.File, r io.Reader) (info diskInfo, err error) {
	t := tar.NewReader(r)
	size := int64(-1)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return info, inputError(err)
		}
		switch {
		case h.Typeflag != tar.TypeReg:
		case h.Name == unikernel.DiskInfoFile:
			if info, err = readDiskInfo(t); err != nil {
				return info, err
			}
		case h.Name == unikernel.DiskFile:
			if size >= 0 {
				return info, invalid("it has two disks")
			}
			if size, err = copySparse(f, t); err != nil {
				return info, inputError(err)
			}
		}
	}
	if info.Version == 0 || size != info.Size {
		return info, invalid("it has no /%s and /%s that fit each other", unikernel.DiskInfoFile, unikernel.DiskFile)
	}
	return info, nil
}

func readDiskInfo(r io.Reader) (info diskInfo, err error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDiskJSON+1))
	if err != nil {
		return info, inputError(err)
	}
	if len(data) > maxDiskJSON {
		return info, invalid("/%s has more than %d bytes", unikernel.DiskInfoFile, maxDiskJSON)
	}
	if _, err := unikernel.ParseDiskInfo(data); err != nil {
		return info, err
	}
	if err := unmarshal(data, &info); err != nil {
		return info, fmt.Errorf("/%s: %w", unikernel.DiskInfoFile, err)
	}
	return info, nil
}

// copySparse writes what r has to f, an empty file, and returns its length.
// Blocks of zeros become holes.
func copySparse(f *os.File, r io.Reader) (int64, error) {
	buf, zero := make([]byte, sparseUnit), make([]byte, sparseUnit)
	at := int64(0)
	for {
		n, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return at, err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return at, f.Truncate(at)
		}
		if err != nil {
			return at, err
		}
	}
}
