package builder

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/advice"
	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
)

// judge refuses a program that certainly cannot run on nanos, with what uni
// check-image says of it. It is unikernel.ErrNotImplemented if another guest can
// run it, else ErrInvalid.
func judge(files advice.Files, program string, c unikernel.BootConfig) error {
	i := advice.Image{Args: append([]string{program}, c.Args[1:]...), Env: c.Env, WorkingDir: c.Cwd, Root: files}
	found, bad := advice.Problem(i, advice.Nanos)
	if !bad {
		return nil
	}
	class := unikernel.ErrNotImplemented
	if _, bad := advice.Problem(i, advice.Linux); bad {
		class = unikernel.ErrInvalid
	}
	return fmt.Errorf("exec: %q: %s: %w", c.Args[0], found, class)
}

// viewFiles are the files of a guest as its kernel shows them.
type viewFiles struct{ *view }

// Lookup implements advice.Files. Whatever is a file can be executed: TFS has no
// modes.
func (v viewFiles) Lookup(name string) (*tree.Node, string, error) {
	p, err := v.find(name)
	if err != nil {
		return nil, "", err
	}
	n := &tree.Node{Links: 1}
	switch {
	case p.isDir():
		n.Mode = unix.S_IFDIR | 0o755
		for _, name := range p.file.Names() {
			n.Entries = append(n.Entries, tree.Entry{Name: name})
		}
	case p.isRegular() && p.source == "":
		n.Mode, n.Size, n.Data = unix.S_IFREG|0o755, p.file.Size(), p.file
	case p.isRegular():
		st, err := os.Stat(p.source)
		if err != nil {
			return nil, "", err
		}
		n.Mode, n.Size, n.Data = unix.S_IFREG|0o755, st.Size(), hostCopy(p.source)
	default:
		return nil, "", unix.ENOENT
	}
	return n, p.path, nil
}

// hostCopy opens a file of the host that the guest has a copy of.
type hostCopy string

// Open implements tree.Opener.
func (h hostCopy) Open() (tree.Content, error) { return os.Open(string(h)) }

// Advise returns what keeps a program from running on a guest with a disk that
// Root or BootDisk made, or may do so, and what to do about it, in one sentence;
// nothing if that cannot be told. It is for a program that has failed.
func (s *Store) Advise(guest string, root unikernel.Disk, args, env []string, cwd string) (advised string) {
	_ = withFiles(guest, root, func(files advice.Files) error {
		i := advice.Image{Architecture: "amd64", Args: args, Env: env, WorkingDir: cwd, Root: files}
		for _, f := range advice.Check(i, guest) {
			if f.Level != advice.OK && f.Check != "setuid" {
				advised = f.String()
				break
			}
		}
		return nil
	})
	return advised
}

// Missing says that a program is certainly not on a disk that Root made. It
// reads the directories where it could be.
func (s *Store) Missing(root unikernel.Disk, args, env []string, cwd string) (missing bool) {
	_ = withFiles(advice.Linux, root, func(files advice.Files) error {
		missing = advice.Image{Args: args, Env: env, WorkingDir: cwd, Root: files}.Missing()
		return nil
	})
	return missing
}

// withFiles opens the files of a guest's disk.
func withFiles(guest string, d unikernel.Disk, use func(advice.Files) error) error {
	f, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	disk, size, err := openFormat(f, d.Format)
	if err != nil {
		return err
	}
	if guest == advice.Nanos {
		image, err := tfs.Open(disk, size)
		if err != nil {
			return err
		}
		return use(viewFiles{newView(image.Root)})
	}
	files, err := reader.Open(disk, size)
	if err != nil {
		return err
	}
	return use(files)
}
