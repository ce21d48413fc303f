package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// key names the contents of mounts, or is empty when they may be anything.
func key(mounts []mount.Mount) (string, error) {
	lowers, err := layers(mounts)
	if err != nil {
		return "", err
	}
	return layersKey(lowers)
}

// layersKey names the contents of directories, topmost first, that do not change.
func layersKey(lowers []string) (string, error) {
	if len(lowers) == 0 {
		return "", nil
	}
	sum := sha256.New()
	for _, dir := range lowers {
		if err := identify(sum, dir); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// layers returns the directories, topmost first, that alone make up the
// contents of mounts; none if there is anything else to them.
func layers(mounts []mount.Mount) ([]string, error) {
	if len(mounts) != 1 || mounts[0].Target != "" {
		return nil, nil
	}
	m := mounts[0]
	switch m.Type {
	case "overlay":
		return overlayLayers(m.Options)
	case "bind":
		// The overlay snapshotter's way to show a single layer; "fs" is its
		// name for a layer's directory. Other snapshotters bind directories
		// that are copies made for this container alone.
		if slices.Contains(m.Options, "ro") && filepath.Base(m.Source) == "fs" {
			return []string{m.Source}, nil
		}
	}
	return nil, nil
}

func overlayLayers(options []string) ([]string, error) {
	var lowers []string
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "lowerdir":
			if strings.Contains(value, `\`) || strings.Contains(value, "::") {
				return nil, nil // escaped colons, data-only layers
			}
			lowers = strings.Split(value, ":")
		case "upperdir":
			empty, err := isEmpty(value)
			if err != nil || !empty {
				return nil, err
			}
		case "uidmap", "gidmap":
			return nil, nil // owners differ from those on disk
		}
	}
	for _, dir := range lowers {
		if !filepath.IsAbs(dir) {
			return nil, nil
		}
	}
	return lowers, nil
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.ReadDir(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// identify writes what tells a snapshot's directory from any other that has or
// had its name: it and its parent's device, inode and birth, and its last change.
func identify(w io.Writer, dir string) error {
	own, err := statx(dir)
	if err != nil {
		return err
	}
	parent, err := statx(filepath.Dir(dir))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%q %s %d.%09d %s\n", dir, birth(own), own.Ctime.Sec, own.Ctime.Nsec, birth(parent))
	return err
}

func statx(path string) (unix.Statx_t, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return st, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st, nil
}

// birth is zero on file systems that do not record it; the inode's change time
// then has to do.
func birth(st unix.Statx_t) string {
	return fmt.Sprintf("%d:%d %d %d.%09d", st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec)
}
