package kernels

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"containerd-shim-uni/builder/decompress"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/nanos"
)

// release is one that is to be installed, wherever it comes from.
type release struct {
	source  string   // as the manifest shall name it
	version string   // that the source's name says, or empty
	archive *Archive // nil for a directory
	// walk calls visit with every regular file.
	walk  func(ctx context.Context, visit visitFunc) error
	close func() error
}

// visitFunc takes one file of a release; name has slashes.
type visitFunc func(name string, size int64, r io.Reader) error

// limits bound a release. A real one has some 25 files and 5 MB.
type limits struct {
	entries                 int
	file, unpacked, archive int64 // bytes
}

var releaseLimits = limits{entries: 1000, file: 64 << 20, unpacked: 256 << 20, archive: 256 << 20}

// klibs is the folder of a release with the kernel's loadable libraries.
const klibs = "klibs"

// place returns where an installed version has a file of a release, empty for
// one that is not needed, such as the loader for UEFI. A release may lie in a
// folder of its own.
func place(name string) (string, error) {
	name = path.Clean(name)
	if !fs.ValidPath(name) || strings.Contains(name, `\`) {
		return "", invalid("the name %.300q leads out of the release", name)
	}
	parts := strings.Split(name, "/")
	if len(parts) > 1 && parts[0] != klibs {
		parts = parts[1:]
	}
	switch {
	case len(parts) == 1 && (parts[0] == nanos.BootImage || parts[0] == nanos.KernelImage):
		return parts[0], nil
	case len(parts) == 2 && parts[0] == klibs && versionPattern.MatchString(parts[1]):
		return path.Join(parts...), nil
	}
	return "", nil
}

// releaseName is how releases are called: "-virt" ones are for arm64.
var releaseName = regexp.MustCompile(`^nanos-release-[a-z]+-(.+?)(-virt)?\.(tar|tgz|tar\.gz|tar\.zst)$`)

// nameVersion returns the version that an archive's name says, or nothing.
func nameVersion(name string) string {
	if m := releaseName.FindStringSubmatch(name); m != nil && checkVersion(m[1]) == nil {
		return m[1]
	}
	return ""
}

// openPath opens a directory or an archive of the host.
func (s *Store) openPath(name, want string) (*release, error) {
	st, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	if st.IsDir() {
		if want != "" {
			return nil, invalid("%s is a directory: a SHA-256 can be given for an archive", name)
		}
		return &release{source: name, walk: func(ctx context.Context, visit visitFunc) error { return walkDir(ctx, name, visit) },
			close: func() error { return nil }}, nil
	}
	if !st.Mode().IsRegular() {
		return nil, invalid("%s is neither a directory nor a file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := s.spool(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return p.release(name, path.Base(name), want, "")
}

// walkDir visits a directory and its klibs. What it holds beside a release does
// not matter, so links are followed: it is the operator's.
func walkDir(ctx context.Context, dir string, visit visitFunc) error {
	names := []string{nanos.KernelImage, nanos.BootImage}
	libs, err := os.ReadDir(filepath.Join(dir, klibs))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range libs {
		if !e.IsDir() {
			names = append(names, path.Join(klibs, e.Name()))
		}
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := visitFile(dir, name, visit); err != nil {
			return err
		}
	}
	return nil
}

func visitFile(dir, name string, visit visitFunc) error {
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", unikernel.ErrNotFound, err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return invalid("%s is no file", f.Name())
	}
	return visit(name, st.Size(), f)
}

// walkTar visits an archive.
func walkTar(ctx context.Context, r io.Reader, most limits, visit visitFunc) error {
	plain, _, err := decompress.Reader(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	t := tar.NewReader(plain)
	var size int64
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("no whole tar archive: %w: %w", unikernel.ErrInvalid, err)
		}
		// What is not needed counts too: it has to be uncompressed.
		if size += h.Size; n >= most.entries || h.Size > most.file || size > most.unpacked {
			return invalid("no release has %d files of %d bytes, %.300q with %d", n+1, size, h.Name, h.Size)
		}
		switch h.Typeflag {
		case tar.TypeDir, tar.TypeXGlobalHeader:
		case tar.TypeReg:
			if err := visit(h.Name, h.Size, t); err != nil {
				return err
			}
		default:
			return invalid("%.300q is no file (tar's type %q): a release has none of these", h.Name, h.Typeflag)
		}
	}
}

// isHex says whether s is hexadecimal digits, in lower case.
func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && s == strings.ToLower(s)
}

// sortFiles puts a manifest's files in order.
func sortFiles(files []File) {
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
}
