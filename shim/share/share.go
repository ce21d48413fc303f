package share

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Plan returns the bind mounts among a specification's mounts, named for the
// shared directory. It returns unikernel.ErrNotImplemented for a mount that a
// machine cannot have and ErrInvalid for a source that does not exist.
func Plan(mounts []specs.Mount) ([]unikernel.SharedMount, error) {
	var sources []source
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("mounts of the host: %w", err)
	}
	for _, m := range mounts {
		if !IsBind(m) {
			continue
		}
		s, err := look(m)
		if err != nil {
			return nil, fmt.Errorf("bind mount %s: %w", m.Destination, err)
		}
		if recursive(m) {
			s.below = below(all, s.path)
		}
		sources = append(sources, s)
	}
	return name(sources), nil
}

// IsBind says whether a mount of a specification is a bind mount: the type or an
// option says so.
func IsBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// source is what a bind mount shows.
type source struct {
	specs.Mount
	path   string // without symbolic links
	info   os.FileInfo
	device uint64 // of its file system
	mount  uint64 // the mount it lies in; 0 where the kernel does not tell
	below  []string
}

// mostBelow bounds how many mounts below a source the guest is told of. It makes
// others when a program comes upon them.
const mostBelow = 256

// below lists the mount points below a directory, in the order of the mounts.
func below(mounts []*mountinfo.Info, dir string) []string {
	var paths []string
	for _, m := range mounts {
		path, ok := strings.CutPrefix(m.Mountpoint, strings.TrimSuffix(dir, "/")+"/")
		if ok && path != "" && len(paths) < mostBelow && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// look refuses a source that is no data that a guest can use, and options that
// cannot be honoured.
func look(m specs.Mount) (source, error) {
	for _, o := range m.Options {
		if o == "shared" || o == "rshared" {
			return source{}, fmt.Errorf("%w: option %s: what is mounted inside a machine is in its kernel and cannot appear on the host; use rprivate, or rslave for mounts of the host that come later",
				unikernel.ErrNotImplemented, o)
		}
	}
	if hostIPC(m) { // it may not even be there
		return source{}, fmt.Errorf("%w: it shows the shared memory or message queues of the host's kernel, and a machine has its own: run the container without the host's IPC namespace",
			unikernel.ErrNotImplemented)
	}
	path, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return source{}, fmt.Errorf("%w: source: %w", unikernel.ErrInvalid, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return source{}, fmt.Errorf("%w: source: %w", unikernel.ErrInvalid, err)
	}
	if what := unshareable(path, info.Mode()); what != "" {
		return source{}, fmt.Errorf("%w: source %s is %s: it works only on the host's kernel, and a machine has its own; leave the mount out",
			unikernel.ErrNotImplemented, m.Source, what)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Type == unix.HUGETLBFS_MAGIC {
		return source{}, fmt.Errorf("%w: source %s is memory of the host in huge pages, which a machine cannot share: leave the mount out, or use a tmpfs (medium Memory)",
			unikernel.ErrNotImplemented, m.Source)
	}
	s := source{Mount: m, path: path, info: info}
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &stat); err != nil {
		return source{}, fmt.Errorf("look at %s: %w", path, err)
	}
	s.device = unix.Mkdev(stat.Dev_major, stat.Dev_minor)
	if stat.Mask&unix.STATX_MNT_ID != 0 {
		s.mount = stat.Mnt_id
	}
	return s, nil
}

// hostIPC says whether a mount is one that clients make for the host's IPC namespace:
// nobody asked for the mount.
func hostIPC(m specs.Mount) bool {
	return filepath.Clean(m.Source) == m.Destination && (m.Destination == "/dev/shm" || m.Destination == "/dev/mqueue")
}

// name places sources in the shared directory. The guest knows a file by the
// mount it comes from and its inode number, so that
//   - a source that lies in another one is a path below that one's name: a
//     program that meets a file by both knows it is the same;
//   - single files are put together by their file systems, as "file0/3": those
//     of different ones would else be one if their inode numbers are equal.
func name(sources []source) []unikernel.SharedMount {
	var shares []unikernel.SharedMount
	var devices []uint64
	for i, s := range sources {
		share := unikernel.SharedMount{Mount: s.Mount, Name: place(sources, i), Device: s.device, Below: s.below, Dir: s.info.IsDir()}
		if s.info.Mode().IsRegular() {
			share.Size = s.info.Size()
		}
		if share.Name == "" {
			at := slices.Index(devices, s.device)
			if at < 0 {
				at = len(devices)
				devices = append(devices, s.device)
			}
			share.Name = fmt.Sprintf("%s%d/%d", fileDir, at, i)
		}
		shares = append(shares, share)
	}
	return shares
}

// Several says whether shares are, or may come to be, of several file systems.
func Several(shares []unikernel.SharedMount) bool {
	return slices.ContainsFunc(shares, func(s unikernel.SharedMount) bool {
		return s.Device != shares[0].Device || len(s.Below) > 0 || slave(s.Mount)
	})
}

// fileDir starts the names of directories that hold single files.
const fileDir = "file"

// place returns where a source is: in another one, or by itself if it is a
// directory. A file by itself has no place yet.
func place(sources []source, i int) string {
	for j, d := range sources {
		if below, ok := sources[i].in(d, i > j); ok && i != j {
			return filepath.Join(place(sources, j), below)
		}
	}
	if sources[i].info.IsDir() {
		return strconv.Itoa(i)
	}
	return ""
}

// in says whether a source can be reached by d, and the way there. Of two of the
// same directory the later one is in the first, unless one of them allows more.
func (s source) in(d source, later bool) (below string, ok bool) {
	if !d.info.IsDir() || !s.allows(d) {
		return "", false
	}
	if s.path == d.path {
		return "", later || !d.allows(s)
	}
	return strings.CutPrefix(s.path, strings.TrimSuffix(d.path, "/")+"/")
}

// allows says whether a source shows the same when it is reached through d:
// nothing is mounted between them, and what the host does to d's mount it may
// do to this one. Where d can be written it does not matter that this one
// cannot: the guest can write the same files by d.
func (s source) allows(d source) bool {
	has := func(m specs.Mount, options ...string) bool {
		return slices.ContainsFunc(options, func(o string) bool { return slices.Contains(m.Options, o) })
	}
	return s.mount != 0 && s.mount == d.mount && recursive(s.Mount) == recursive(d.Mount) &&
		has(s.Mount, "rro") == has(d.Mount, "rro") && (!has(d.Mount, "ro") || has(s.Mount, "ro")) &&
		slave(s.Mount) == slave(d.Mount)
}

// recursive says whether what is mounted below the source is seen too: "rbind",
// or type bind alone.
func recursive(m specs.Mount) bool { return !slices.Contains(m.Options, "bind") }

// slave says whether what the host mounts later below the source is seen.
func slave(m specs.Mount) bool {
	return slices.Contains(m.Options, "slave") || slices.Contains(m.Options, "rslave")
}

func unshareable(path string, mode os.FileMode) string {
	switch {
	case mode&os.ModeSocket != 0:
		return "a socket"
	case mode&os.ModeDevice != 0:
		return "a device"
	case mode&os.ModeNamedPipe != 0:
		return "a fifo"
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		rest, below := strings.CutPrefix(path, dir)
		// Below /dev/shm are ordinary files.
		if below && (rest == "" || rest[0] == '/') && !strings.HasPrefix(path, "/dev/shm/") {
			return "part of the host's " + dir
		}
	}
	return ""
}

// mostEntries bounds how many names of a directory Sockets looks at.
const mostEntries = 1000

// Sockets lists the sockets that lie directly in a shared directory: they are in
// the machine as names, but who listens is on the host's kernel.
func Sockets(s unikernel.SharedMount) []string {
	if !s.Dir {
		return nil
	}
	dir, err := os.Open(s.Mount.Source)
	if err != nil {
		return nil
	}
	defer dir.Close()
	entries, _ := dir.ReadDir(mostEntries) // what can be read
	var sockets []string
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 {
			sockets = append(sockets, e.Name())
		}
	}
	slices.Sort(sockets)
	return sockets
}
