package builder

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"containerd-shim-uni/builder/tfs"

	"golang.org/x/sys/unix"
)

// view is a guest's file system as its kernel shows it: the root's files, what
// a container adds to them, and volumes mounted on directories. Paths in it are
// clean and have no symbolic links.
type view struct {
	root *tfs.FS

	// copies are regular files, by path, with their sources on the host.
	copies map[string]string
	// links are symbolic links, by path, with their targets.
	links map[string]string
	// volumes are by the path they are mounted on.
	volumes map[string]*volume
}

// volume is a mounted disk.
type volume struct {
	disk string // of the host; "" for one that is empty, or not made yet
	fs   *tfs.FS
	file *os.File
}

// top returns the volume's root directory, and whether it holds anything.
func (v *volume) top() (tfs.File, bool, error) {
	if v.disk == "" {
		return tfs.File{}, false, nil
	}
	if v.fs == nil {
		f, err := os.Open(v.disk)
		if err != nil {
			return tfs.File{}, false, err
		}
		v.file = f
		st, err := f.Stat()
		if err != nil {
			return tfs.File{}, false, err
		}
		if v.fs, err = tfs.ReadVolume(f, st.Size()); err != nil {
			return tfs.File{}, false, err
		}
	}
	return v.fs.Top(), true, nil
}

// close closes what was opened to look into volumes.
func (v *view) close() {
	for _, vol := range v.volumes {
		if vol.file != nil {
			vol.file.Close()
		}
	}
}

func newView(root *tfs.FS) *view {
	return &view{root: root, copies: map[string]string{}, links: map[string]string{}, volumes: map[string]*volume{}}
}

// place is where a path leads.
type place struct {
	// path has no symbolic links.
	path string
	// volume is the path of the volume it is on, "" for the root.
	volume string
	// missing says that nothing is there, or nothing but an empty volume.
	missing bool
	// source is the host's file for a copy; else file is what there is.
	source string
	file   tfs.File
}

func (p place) isDir() bool     { return !p.missing && p.source == "" && p.file.IsDir() }
func (p place) isRegular() bool { return !p.missing && (p.source != "" || p.file.IsRegular()) }

// open opens a regular file.
func (p place) open() (io.Reader, func() error, error) {
	if p.source == "" {
		r, err := p.file.Reader()
		return r, func() error { return nil }, err
	}
	f, err := os.Open(p.source)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

// maxLinks is how many symbolic links a path may lead through, as in Linux.
const maxLinks = 40

// find follows a path from the root, through symbolic links. What is missing,
// also in the middle, is no error. Errors are unix.ENOTDIR and ELOOP.
func (v *view) find(name string) (place, error) {
	at := []place{{path: "/", file: v.root.Top()}}
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		here := at[len(at)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			at = at[:max(1, len(at)-1)]
			continue
		}
		if !here.isDir() && !here.missing {
			return place{}, fmt.Errorf("%s: %w", name, unix.ENOTDIR)
		}
		next, target, err := v.child(here, part)
		if err != nil {
			return place{}, err
		}
		if target == "" {
			at = append(at, next)
			continue
		}
		if links++; links > maxLinks {
			return place{}, fmt.Errorf("%s: %w", name, unix.ELOOP)
		}
		if strings.HasPrefix(target, "/") {
			at = at[:1]
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at[len(at)-1], nil
}

// child returns what a name in a directory is, or where it links to.
func (v *view) child(dir place, name string) (kid place, target string, err error) {
	kid = place{path: path.Join(dir.path, name), volume: dir.volume}
	if target, ok := v.links[kid.path]; ok {
		return kid, target, nil
	}
	if mounted, ok := v.volumes[kid.path]; ok {
		file, full, err := mounted.top()
		return place{path: kid.path, volume: kid.path, file: file, missing: !full}, "", err
	}
	if source, ok := v.copies[kid.path]; ok {
		kid.source = source
		return kid, "", nil
	}
	if dir.missing {
		kid.missing = true
		return kid, "", nil
	}
	file, ok := dir.file.Child(name)
	kid.file, kid.missing = file, !ok
	if ok {
		target, _ = file.Target()
	}
	return kid, target, nil
}
