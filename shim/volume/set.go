package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Set are the volumes of one machine. Its methods may be called concurrently.
type Set struct {
	mu      sync.Mutex
	volumes map[string]*volume  // but those of a container's own, by their paths
	names   int                 // how many were given
	held    int64               // bytes of all
	own     map[string][]string // options of memory, by its path
	watcher *watcher            // once there is something to follow
	closed  bool
}

// volume is one directory of the machine.
type volume struct {
	source
	name string
	size int64

	mu   sync.Mutex // held while it is told to the machine
	told bool
	sum  [sha256.Size]byte // of what was told
}

// NewSet returns the volumes of a machine that has none yet.
func NewSet() *Set { return &Set{volumes: map[string]*volume{}, own: map[string][]string{}} }

// Memory says that a path stands for a tmpfs of the machine with options, as mount(8)
// spells them, and for nothing on the host.
func (s *Set) Memory(path string, options []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[path] = options
}

// classify says what a bind mount's source is, see the function of that name.
func (s *Set) classify(m specs.Mount, ids []string) (source, error) {
	s.mu.Lock()
	options, own := s.own[filepath.Clean(m.Source)]
	s.mu.Unlock()
	if own {
		return source{kind: memory, path: filepath.Clean(m.Source), options: options}, nil
	}
	return classify(m, ids)
}

// Group is what a container has of the volumes.
type Group struct {
	// Mounts are those of the container that show a volume.
	Mounts  []unikernel.VolumeMount
	set     *Set
	volumes []*volume
	// directories are those that the container wants in memory, by volumes.
	directories map[*volume][]string
}

// Take takes the bind mounts out of a container's that are for volumes. ids are the
// container's and its sandbox's. Nothing is in the machine before Fill.
func (s *Set) Take(mounts []specs.Mount, ids ...string) (rest []specs.Mount, g *Group, err error) {
	g = &Group{set: s, directories: map[*volume][]string{}}
	for _, m := range mounts {
		var v *volume
		var src source
		if share.IsBind(m) {
			if src, err = s.classify(m, ids); err == nil {
				v, err = s.volume(src)
			}
			if err != nil {
				return nil, nil, fmt.Errorf("bind mount %s: %w", m.Destination, err)
			}
		}
		if v == nil {
			rest = append(rest, m)
			continue
		}
		path := src.below
		if src.kind != memory && !isDir(src.path) {
			path = fileName
		}
		g.Mounts = append(g.Mounts, unikernel.VolumeMount{Mount: m, Volume: v.name, Path: path})
		g.volumes = append(g.volumes, v)
		if src.below != "" {
			g.directories[v] = append(g.directories[v], src.below)
		}
	}
	return rest, g, nil
}

// volume returns that of a source, nil for one that is to be shared.
func (s *Set) volume(src source) (*volume, error) {
	if src.kind == none {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[src.path]; v != nil {
		return v, nil
	}
	v := &volume{source: src}
	if src.kind != memory {
		_, bytes, err := readSource(src.path)
		if errors.Is(err, errLarge) || err == nil && s.held+bytes > mostOfAll {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
		}
		v.size = bytes
	}
	s.held += v.size
	s.names++
	v.name = strconv.Itoa(s.names)
	if src.kind != copied {
		s.volumes[src.path] = v
	}
	return v, nil
}

// Fill makes the machine have the volumes of the group, before the container is made,
// and follows the host from then on. The keeper is the same for all of a set.
func (g *Group) Fill(ctx context.Context, keeper unikernel.VolumeKeeper) error {
	group, ctx := errgroup.WithContext(ctx)
	told := map[*volume]bool{}
	for _, v := range g.volumes {
		if told[v] {
			continue
		}
		told[v] = true
		group.Go(func() error {
			if v.kind == memory {
				return v.remember(ctx, keeper, g.directories[v])
			}
			if v.kind != copied {
				g.set.follow(v, keeper) // first, so that no change is missed
			}
			return v.tell(ctx, keeper)
		})
	}
	return group.Wait()
}

// Remove takes away what was the container's alone, after its own removal.
func (g *Group) Remove(ctx context.Context, keeper unikernel.VolumeKeeper) error {
	var errs []error
	for _, v := range g.volumes {
		if v.kind != copied {
			continue
		}
		errs = append(errs, keeper.RemoveVolume(ctx, v.name))
		g.set.mu.Lock()
		g.set.held -= v.size
		g.set.mu.Unlock()
	}
	g.volumes = nil
	return errors.Join(errs...)
}

// Close ends following the host.
func (s *Set) Close() {
	s.mu.Lock()
	w := s.watcher
	s.closed = true
	s.mu.Unlock()
	if w != nil {
		w.close()
	}
}

// follow tells the keeper of changes of a volume from now on.
func (s *Set) follow(v *volume, keeper unikernel.VolumeKeeper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.watcher == nil {
		s.watcher = newWatcher(keeper)
	}
	if err := s.watcher.add(v); err != nil {
		log.L.WithError(err).Warnf("changes of %s are not seen by the container", v.path)
	}
}

// errRead is a source that cannot be read, or is too large by now.
type errRead struct{ error }

func (e errRead) Unwrap() error { return e.error }

// tell tells the keeper what the source holds, if that is news.
func (v *volume) tell(ctx context.Context, keeper unikernel.VolumeKeeper) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	files, _, err := readSource(v.path)
	if err != nil {
		return errRead{fmt.Errorf("files of %s: %w", v.path, err)}
	}
	sum := digest(files)
	if v.told && sum == v.sum {
		return nil
	}
	if err := keeper.SetVolume(ctx, v.name, unikernel.VolumeContent{Files: files}); err != nil {
		return err
	}
	v.told, v.sum = true, sum
	return nil
}

// remember makes a volume in memory as its source on the host is, with directories.
func (v *volume) remember(ctx context.Context, keeper unikernel.VolumeKeeper, directories []string) error {
	options := v.options
	if options == nil {
		var ok bool
		var err error
		if options, ok, err = share.Memory(v.path); err != nil || !ok {
			return errors.Join(fmt.Errorf("%s is no tmpfs any more", v.path), err)
		}
	}
	content := unikernel.VolumeContent{Memory: true, Options: options}
	for _, dir := range directories {
		names := strings.Split(dir, "/")
		for i := range names {
			f, err := directory(v.path, filepath.Join(names[:i+1]...))
			if err != nil {
				return err
			}
			content.Files = append(content.Files, f)
		}
	}
	return keeper.SetVolume(ctx, v.name, content)
}

// directory describes one that the kubelet made.
func directory(top, path string) (unikernel.VolumeFile, error) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(top, path), &st); err != nil {
		return unikernel.VolumeFile{}, fmt.Errorf("directory %s of %s: %w", path, top, err)
	}
	return unikernel.VolumeFile{Path: path, Mode: st.Mode, UID: st.Uid, GID: st.Gid}, nil
}
