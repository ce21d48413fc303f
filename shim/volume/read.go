package volume

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// What a volume with files may be at most. The bytes are what a ConfigMap or a Secret
// can have (1 MiB, ObjectSize of Kubernetes' API); mostOfAll is for a machine's
// volumes together, which are in its memory.
const (
	mostFiles = 512
	mostBytes = 1 << 20
	mostOfAll = 8 << 20
)

// errLarge: it is not for a volume.
var errLarge = fmt.Errorf("it has more than %d files or %d bytes, or something that is neither file, directory nor link", mostFiles, mostBytes)

// fileName is the name of the file in a volume of one.
const fileName = "file"

// readTries is how often a directory is read that changes meanwhile.
const readTries = 3

// readSource returns the files of a source, a directory before what is in it, and how
// many bytes they hold.
func readSource(path string) (files []unikernel.VolumeFile, bytes int64, err error) {
	if !isDir(path) {
		r := reader{left: mostBytes}
		err := r.add(path, fileName)
		return r.files, mostBytes - r.left, err
	}
	for range readTries {
		r := reader{left: mostBytes}
		err = filepath.WalkDir(path, func(at string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(path, at)
			if err != nil {
				return err
			}
			return r.add(at, rel)
		})
		if !errors.Is(err, fs.ErrNotExist) {
			return r.files, mostBytes - r.left, err
		}
	}
	return nil, 0, err
}

// reader collects files.
type reader struct {
	files []unikernel.VolumeFile
	left  int64
}

func (r *reader) add(path, name string) error {
	var st unix.Stat_t
	stat, flags := unix.Lstat, unix.O_NOFOLLOW
	if name == fileName { // a single one may be a link
		stat, flags = unix.Stat, 0
	}
	if err := stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	f := unikernel.VolumeFile{Path: name, Mode: st.Mode, UID: st.Uid, GID: st.Gid}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFLNK:
		f.Data, err = os.Readlink(path)
	case unix.S_IFREG:
		f.Data, err = r.content(path, flags)
	default:
		err = errLarge
	}
	if err != nil {
		return err
	}
	r.left -= int64(len(f.Data))
	if r.files = append(r.files, f); len(r.files) > mostFiles || r.left < 0 {
		return errLarge
	}
	return nil
}

func (r *reader) content(path string, flags int) (string, error) {
	file, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0) // whatever it is by now
	if err != nil {
		return "", err
	}
	defer file.Close()
	var b strings.Builder
	_, err = io.Copy(&b, io.LimitReader(file, r.left+1))
	return b.String(), err
}

// digest tells contents apart.
func digest(files []unikernel.VolumeFile) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %o %d %d %d\n%s", f.Path, f.Mode, f.UID, f.GID, len(f.Data), f.Data)
	}
	h.Sum(sum[:0])
	return sum
}
