package kernels

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/nanos"
)

// Request says what to install.
type Request struct {
	// From is a directory, a tar file (plain, gzip or zstd) or the http or https
	// URL of one; empty is the official release.
	From string
	// Version names what is installed. Empty is the latest official release, or
	// what From's name or the kernel say.
	Version string
	// SHA256 is that of the archive, in hexadecimal; empty is any.
	SHA256 string
	// KeepDefault leaves the default as it is, if there is one.
	KeepDefault bool
}

// Install puts a release below the Store's directory, whole or not at all, and
// makes it the default. A release that is there already with the same contents
// is left alone, or mended. Errors wrap unikernel.ErrInvalid for what cannot be
// a release, unikernel.ErrNotFound for one that does not exist, ErrExists, and
// those of the file system and the network.
func (s *Store) Install(ctx context.Context, r Request) (_ Installed, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("install nanos: %w", err)
		}
	}()
	if r.Version != "" {
		if err := checkVersion(r.Version); err != nil {
			return Installed{}, err
		}
	}
	if r.SHA256 = strings.TrimPrefix(r.SHA256, "sha256:"); r.SHA256 != "" && (len(r.SHA256) != 2*sha256.Size || !isHex(r.SHA256)) {
		return Installed{}, invalid("%q is no SHA-256: 64 hexadecimal digits in lower case are wanted", r.SHA256)
	}
	// Also before anything arrives in vain.
	for _, dir := range []string{filepath.Dir(s.dir), s.dir} {
		if err := makeDir(dir); err != nil {
			return Installed{}, err
		}
	}
	rel, err := s.open(ctx, r)
	if err != nil {
		return Installed{}, err
	}
	defer func() { err = errors.Join(err, rel.close()) }()
	lock, err := s.lock()
	if err != nil {
		return Installed{}, err
	}
	defer lock.Unlock()
	version, err := s.unpack(ctx, rel, r.Version)
	if err != nil {
		return Installed{}, err
	}
	if s.current() == "" || !r.KeepDefault {
		if err := s.setCurrent(version); err != nil {
			return Installed{}, err
		}
	}
	return s.installed(version), nil
}

// open finds what is asked for.
func (s *Store) open(ctx context.Context, r Request) (*release, error) {
	scheme, _, isURL := strings.Cut(r.From, "://")
	switch {
	case r.From == "":
		return s.openOfficial(ctx, r.Version, r.SHA256)
	case isURL && (scheme == "http" || scheme == "https"):
		return s.openURL(ctx, r.From, r.SHA256)
	case isURL:
		return nil, invalid("%s: only http and https URLs can be fetched", r.From)
	}
	return s.openPath(r.From, r.SHA256)
}

// unpack makes a release appear under its version, which it returns. The caller
// has the lock.
func (s *Store) unpack(ctx context.Context, rel *release, version string) (string, error) {
	stage, err := os.MkdirTemp(s.dir, ".install-*"+tempSuffix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	root, err := os.OpenRoot(stage)
	if err != nil {
		return "", err
	}
	defer root.Close()
	files, err := writeFiles(ctx, root, rel)
	if err != nil {
		return "", fmt.Errorf("%s: %w", rel.source, err)
	}
	build, err := Examine(stage)
	if err != nil {
		return "", fmt.Errorf("%s: %w", rel.source, err)
	}
	if !build.TFS5 {
		s.opts.Log("%s: it cannot be seen whether this kernel reads version 5 of its file system, as releases since %s do", rel.source, firstRelease)
	}
	m := Manifest{Format: manifestFormat, Commit: build.Commit, Source: rel.source, Archive: rel.archive, Installed: time.Now().UTC(), Files: files}
	if m.Version = version; version == "" {
		m.Version = nameOf(rel.version, m)
	}
	if err := writeManifest(root, m); err != nil {
		return "", err
	}
	for _, dir := range []string{stage, filepath.Join(stage, klibs)} {
		if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return m.Version, s.publish(stage, m)
}

// nameOf is the version where nobody gave one: what the source's name says, else
// the revision it was built from, else the kernel's digest.
func nameOf(version string, m Manifest) string {
	if version != "" {
		return version
	}
	if m.Commit != "" {
		return "git-" + m.Commit[:12]
	}
	i := slices.IndexFunc(m.Files, func(f File) bool { return f.Name == nanos.KernelImage })
	return "sha256-" + m.Files[i].SHA256[:12]
}

// publish gives a complete directory its version's name.
func (s *Store) publish(stage string, m Manifest) error {
	if err := os.Chmod(stage, 0o755); err != nil { // QEMU's user opens the kernel
		return err
	}
	dst := filepath.Join(s.dir, m.Version)
	err := os.Rename(stage, dst)
	if err == nil {
		return syncDir(s.dir)
	}
	if !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	old, err := readManifest(dst)
	if err == nil && !slices.Equal(old.Files, m.Files) {
		return fmt.Errorf("nanos %s is %w, from %s: name this one otherwise with --version, or run: uni kernel rm %s",
			m.Version, ErrExists, old.Source, m.Version)
	}
	if faults, verr := verify(dst, old); err == nil && verr == nil && len(faults) == 0 {
		return nil
	}
	// The same release, damaged. The caller removes what is then at stage.
	s.opts.Log("nanos %s was damaged and is replaced", m.Version)
	if err := unix.Renameat2(unix.AT_FDCWD, stage, unix.AT_FDCWD, dst, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: stage, New: dst, Err: err}
	}
	return syncDir(s.dir)
}

// writeFiles writes what is needed of a release and returns it, sorted.
func writeFiles(ctx context.Context, root *os.Root, rel *release) ([]File, error) {
	var files []File
	err := rel.walk(ctx, func(name string, size int64, r io.Reader) error {
		at, err := place(name)
		if err != nil || at == "" {
			return err
		}
		sum := sha256.New()
		if err := copyFile(root, at, io.TeeReader(r, sum), size); err != nil {
			return err
		}
		files = append(files, File{Name: at, Size: size, SHA256: hexSum(sum)})
		return nil
	})
	sortFiles(files)
	return files, err
}

// copyFile makes the file name, and its directory, with size bytes of r.
func copyFile(root *os.Root, name string, r io.Reader, size int64) error {
	if size > releaseLimits.file {
		return invalid("%s has %d bytes, at most %d are possible", name, size, releaseLimits.file)
	}
	if dir := path.Dir(name); dir != "." {
		err := root.Mkdir(dir, 0o755)
		if err == nil {
			err = root.Chmod(dir, 0o755) // whatever the umask
		} else if errors.Is(err, fs.ErrExist) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	err := writeFile(root, name, func(f *os.File) error {
		_, err := io.CopyN(f, r, size)
		return err
	})
	switch {
	case errors.Is(err, fs.ErrExist):
		return invalid("the release has %s twice", name)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s ends too soon: %w: %w", name, unikernel.ErrInvalid, err)
	}
	return err
}

// writeFile makes a file that is not there yet, for everybody to read, and
// syncs it.
func writeFile(root *os.Root, name string, write func(*os.File) error) (err error) {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := write(f); err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o644), f.Sync())
}

// makeDir makes a directory, and those above it, through which QEMU's user may
// pass.
func makeDir(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	err := os.Mkdir(path, 0o711)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return errors.Join(err, os.Chmod(path, 0o711)) // whatever the umask
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
