package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// How changes are noticed and told. They are variables for the tests alone.
var (
	// settle is how long is waited for more of a change: a file is written in steps.
	settle = 20 * time.Millisecond
	// tellTimeout bounds telling the machine, which may be paused; after retry it is
	// tried again.
	tellTimeout = 5 * time.Second
	retry       = 5 * time.Second
	// pollPeriod is how often is looked for changes on a host that has no inotify
	// instance left.
	pollPeriod = 10 * time.Second
	// inotify makes an instance.
	inotify = func() (fd int, err error) { return unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK) }
)

// watched are the events that can make a source another.
const watched = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_ONLYDIR

// watcher tells a machine what changes on the host.
type watcher struct {
	keeper unikernel.VolumeKeeper
	// events is the inotify instance; nil if there is none to be had.
	events *os.File
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // full when something is dirty

	mu    sync.Mutex // guards what follows
	watch map[int][]*volume
	all   []*volume
	dirty map[*volume]bool
}

func newWatcher(keeper unikernel.VolumeKeeper) *watcher {
	w := &watcher{keeper: keeper, wake: make(chan struct{}, 1), watch: map[int][]*volume{}, dirty: map[*volume]bool{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	fd, err := inotify()
	if err == nil {
		w.events = os.NewFile(uintptr(fd), "inotify")
		w.wg.Go(w.read)
	} else {
		log.L.WithError(err).Warnf("no inotify instance is left (fs.inotify.max_user_instances): volumes of the container follow the host within %s", pollPeriod)
		w.wg.Go(w.poll)
	}
	w.wg.Go(w.tell)
	return w
}

// close returns when nothing is told any more.
func (w *watcher) close() {
	w.cancel()
	if w.events != nil {
		w.events.Close()
	}
	w.wg.Wait()
}

// add follows a volume; again is fine. The directory of a single file is watched: the
// file may be replaced.
func (w *watcher) add(v *volume) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, known := range w.all {
		if known == v {
			return nil
		}
	}
	if w.events != nil {
		raw, err := w.events.SyscallConn()
		if err != nil {
			return err
		}
		dir, id := v.path, 0
		if v.kind == single {
			dir = filepath.Dir(v.path)
		}
		cerr := raw.Control(func(fd uintptr) { id, err = unix.InotifyAddWatch(int(fd), dir, watched) })
		if err = errors.Join(cerr, err); err != nil {
			return os.NewSyscallError("inotify_add_watch", err)
		}
		w.watch[id] = append(w.watch[id], v)
	}
	w.all = append(w.all, v)
	return nil
}

// read takes the events until close.
func (w *watcher) read() {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.events.Read(buf)
		if err != nil {
			if w.ctx.Err() == nil {
				log.L.WithError(err).Error("volumes do not follow the host any more")
			}
			return
		}
		w.take(buf[:n])
	}
}

// take notes whose events these are (inotify(7), struct inotify_event).
func (w *watcher) take(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(b) >= unix.SizeofInotifyEvent {
		id, mask := int(int32(binary.NativeEndian.Uint32(b))), binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
		b = b[size:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			w.mark(w.all...)
		}
		for _, v := range w.watch[id] {
			if v.kind != single || name == filepath.Base(v.path) {
				w.mark(v)
			}
		}
	}
}

// mark makes volumes be looked at. The caller holds mu.
func (w *watcher) mark(list ...*volume) {
	for _, v := range list {
		w.dirty[v] = true
	}
	if len(list) == 0 {
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// poll looks at all from time to time.
func (w *watcher) poll() {
	for w.sleep(pollPeriod) {
		w.mu.Lock()
		w.mark(w.all...)
		w.mu.Unlock()
	}
}

// sleep is false if the watcher was closed meanwhile.
func (w *watcher) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.ctx.Done():
		return false
	}
}

// tell tells the machine of what changed until close. What it did not take is tried
// again; of what cannot be read it keeps what it has.
func (w *watcher) tell() {
	for {
		select {
		case <-w.wake:
		case <-w.ctx.Done():
			return
		}
		if !w.sleep(settle) {
			return
		}
		w.mu.Lock()
		list := w.dirty
		w.dirty = map[*volume]bool{}
		w.mu.Unlock()
		var left []*volume
		for v := range list {
			if err := w.tellOne(v); err != nil && w.ctx.Err() == nil {
				log.L.WithError(err).Warnf("the container does not see that %s has changed", v.path)
				if !errors.As(err, new(errRead)) {
					left = append(left, v)
				}
			}
		}
		if len(left) == 0 {
			continue
		}
		if !w.sleep(retry) {
			return
		}
		w.mu.Lock()
		w.mark(left...)
		w.mu.Unlock()
	}
}

func (w *watcher) tellOne(v *volume) error {
	ctx, cancel := context.WithTimeout(w.ctx, tellTimeout)
	defer cancel()
	return v.tell(ctx, w.keeper)
}
