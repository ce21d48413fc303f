package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// pod is the kubelet's directory of a pod, and a client's of a container.
type pod struct {
	t   *testing.T
	top string
}

func newPod(t *testing.T) *pod {
	t.Helper()
	top := filepath.Join(t.TempDir(), "pods/u1")
	must(t, os.MkdirAll(filepath.Join(top, "volumes"), 0o750))
	return &pod{t, top}
}

func (p *pod) path(name string) string { return filepath.Join(p.top, name) }

func (p *pod) write(name, data string) {
	p.t.Helper()
	must(p.t, os.MkdirAll(filepath.Dir(p.path(name)), 0o755), os.WriteFile(p.path(name), []byte(data), 0o644))
}

// project writes a volume as the kubelet does, in place of what it was.
func (p *pod) project(volume, version string, files map[string]string) {
	p.t.Helper()
	dir := p.path("volumes/" + volume)
	old, _ := os.Readlink(filepath.Join(dir, "..data"))
	for name, data := range files {
		p.write("volumes/"+volume+"/.."+version+"/"+name, data)
	}
	must(p.t, os.Symlink(".."+version, filepath.Join(dir, "..data_tmp")), os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	for name := range files {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); !errors.Is(err, os.ErrExist) {
			must(p.t, err)
		}
	}
	if old != "" {
		must(p.t, os.RemoveAll(filepath.Join(dir, old)))
	}
}

func bind(source, destination, options string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: strings.Split("rbind,rprivate,"+options, ",")}
}

// keeper is a machine that keeps volumes, some of which it does not take at first.
type keeper struct {
	mu      sync.Mutex
	has     map[string]string // every file of a volume with its data, in one line
	told    int
	refuse  int
	changed chan struct{}
}

func newKeeper() *keeper { return &keeper{has: map[string]string{}, changed: make(chan struct{}, 100)} }

func (k *keeper) SetVolume(ctx context.Context, name string, v unikernel.VolumeContent) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told++
	if k.refuse > 0 {
		k.refuse--
		return fmt.Errorf("%w: refused", unikernel.ErrUnavailable)
	}
	text := strings.Join(v.Options, ",")
	for _, f := range v.Files {
		text += fmt.Sprintf(" %s=%s", f.Path, f.Data)
	}
	k.has[name] = text
	k.changed <- struct{}{}
	return ctx.Err()
}

func (k *keeper) RemoveVolume(_ context.Context, name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.has, name)
	return nil
}

// await waits until a volume holds something.
func (k *keeper) await(t *testing.T, name, want string) {
	t.Helper()
	for {
		k.mu.Lock()
		got := k.has[name]
		k.mu.Unlock()
		if strings.HasSuffix(got, want) {
			return
		}
		select {
		case <-k.changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("volume %s holds %q, want %q", name, got, want)
		}
	}
}

func take(t *testing.T, s *Set, mounts ...specs.Mount) ([]specs.Mount, *Group) {
	t.Helper()
	rest, g, err := s.Take(mounts, "c1", "s1")
	must(t, err)
	return rest, g
}

// TestTake: what becomes a volume, and what is shared.
func TestTake(t *testing.T) {
	p := newPod(t)
	for _, name := range []string{"cri/s1/resolv.conf", "cri/c1/hostname", "cri/other/hosts", "etc-hosts", "volumes/kubernetes.io~empty-dir/e/x", "file"} {
		p.write(name, "text")
	}
	for _, kind := range []string{"configmap", "secret", "projected", "downward-api"} {
		p.project("kubernetes.io~"+kind+"/"+kind, "1", map[string]string{"key": "value"})
	}
	p.project("kubernetes.io~configmap/large", "1", map[string]string{"key": strings.Repeat("x", mostBytes+1)})
	p.project("kubernetes.io~configmap/odd", "1", map[string]string{"key": "x"})
	must(t, unix.Mkfifo(p.path("volumes/kubernetes.io~configmap/odd/fifo"), 0o600))
	p.write("volume-subpaths/configmap/ctr/0", "part")
	p.write("volume-subpaths/e/ctr/1", "part")
	for _, tt := range []struct {
		source, destination, options string
		path                         string // in the volume; "-" for shared
	}{
		{"cri/s1/resolv.conf", "/etc/resolv.conf", "rw", fileName},
		{"cri/c1/hostname", "/etc/hostname", "ro", fileName},
		{"etc-hosts", "/etc/hosts", "rw", fileName},
		{"cri/other/hosts", "/etc/hosts", "rw", "-"},
		{"cri/c1/hostname", "/etc/other", "ro", "-"},
		{"volumes/kubernetes.io~configmap/configmap", "/a", "ro", ""},
		{"volumes/kubernetes.io~secret/secret", "/a", "ro", ""},
		{"volumes/kubernetes.io~projected/projected", "/a", "rro", ""},
		{"volumes/kubernetes.io~downward-api/downward-api/", "/a", "ro", ""},
		{"volumes/kubernetes.io~configmap/configmap", "/a", "rw", "-"},
		{"volumes/kubernetes.io~configmap/configmap/key", "/a", "ro", "-"},
		{"volumes/kubernetes.io~configmap/large", "/a", "ro", "-"},
		{"volumes/kubernetes.io~configmap/odd", "/a", "ro", "-"},
		{"volumes/kubernetes.io~empty-dir/e", "/a", "rw", "-"},
		{"volume-subpaths/configmap/ctr/0", "/a", "ro", fileName},
		{"volume-subpaths/e/ctr/1", "/a", "rw", "-"},
		{"file", "/etc/hosts", "ro", "-"},
	} {
		m := bind(p.path(tt.source), tt.destination, tt.options)
		rest, g := take(t, NewSet(), specs.Mount{Type: "proc", Destination: "/proc"}, m)
		if got := len(g.Mounts) == 0; got != (tt.path == "-") || len(rest)+len(g.Mounts) != 2 {
			t.Errorf("%s at %s: shared %t", tt.source, tt.destination, got)
		} else if !got && (g.Mounts[0].Path != tt.path || g.Mounts[0].Mount.Destination != tt.destination) {
			t.Errorf("%s: %+v", tt.source, g.Mounts[0])
		}
	}
	if _, _, err := NewSet().Take([]specs.Mount{bind(p.path("volumes/kubernetes.io~secret/none"), "/a", "ro")}); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a source that is not there: %v", err)
	}
}

// TestNames: containers have a followed volume together, and what is copied each.
// There is an end to what a machine is told to keep.
func TestNames(t *testing.T) {
	p, s, k := newPod(t), NewSet(), newKeeper()
	t.Cleanup(s.Close)
	p.project("kubernetes.io~secret/v", "1", map[string]string{"key": strings.Repeat("x", mostBytes-100)})
	p.write("volume-subpaths/v/ctr/0", strings.Repeat("x", mostBytes-100))
	secret, part := bind(p.path("volumes/kubernetes.io~secret/v"), "/a", "ro"), bind(p.path("volume-subpaths/v/ctr/0"), "/b", "ro")
	_, one := take(t, s, secret, part)
	_, two := take(t, s, secret, part)
	if one.Mounts[0].Volume != two.Mounts[0].Volume || one.Mounts[1].Volume == two.Mounts[1].Volume {
		t.Errorf("%+v, %+v", one.Mounts, two.Mounts)
	}
	must(t, one.Fill(t.Context(), k), two.Fill(t.Context(), k))
	if len(k.has) != 3 {
		t.Errorf("the machine has %d volumes, want 3", len(k.has))
	}
	must(t, one.Remove(t.Context(), k), one.Remove(t.Context(), k))
	if _, there := k.has[one.Mounts[1].Volume]; there || len(k.has) != 2 {
		t.Errorf("after the removal of one it has %d", len(k.has))
	}
	shared := 0
	for range 2 * mostOfAll / mostBytes {
		rest, _ := take(t, s, part)
		shared += len(rest)
	}
	if want := mostOfAll/mostBytes + 2; shared != want {
		t.Errorf("%d of too many are shared, want %d", shared, want)
	}
}

// TestFollow: every way in which a source changes gets to the machine, also when it
// does not take it at once, and what is no change does not.
func TestFollow(t *testing.T) {
	for name, without := range map[string]bool{"inotify": false, "no instance left": true} {
		t.Run(name, func(t *testing.T) {
			if without {
				defer func(p time.Duration, f func() (int, error)) { pollPeriod, inotify = p, f }(pollPeriod, inotify)
				pollPeriod = 20 * time.Millisecond
				inotify = func() (int, error) { return -1, unix.EMFILE }
			}
			follow(t)
		})
	}
}

func follow(t *testing.T) {
	defer func(d time.Duration) { retry = d }(retry)
	retry = 10 * time.Millisecond
	p, s, k := newPod(t), NewSet(), newKeeper()
	p.write("c1/hosts", "one")
	p.write("c1/noise", "")
	p.project("kubernetes.io~configmap/v", "1", map[string]string{"key": "one"})
	_, g := take(t, s, bind(p.path("c1/hosts"), "/etc/hosts", "rw"), bind(p.path("volumes/kubernetes.io~configmap/v"), "/a", "ro"))
	hosts, config := g.Mounts[0].Volume, g.Mounts[1].Volume
	p.write("c1/hosts", "filled by a hook") // between Take and Fill
	must(t, g.Fill(t.Context(), k))
	if got := k.has[hosts]; got != " file=filled by a hook" {
		t.Errorf("%q", got)
	}
	if got := k.has[config]; got != " .= ..1= ..1/key=one ..data=..1 key=..data/key" {
		t.Errorf("%q", got)
	}
	p.write("c1/hosts", "in place")
	k.await(t, hosts, " file=in place")
	must(t, os.WriteFile(p.path("c1/new"), []byte("renamed"), 0o644), os.Rename(p.path("c1/new"), p.path("c1/hosts")))
	k.await(t, hosts, " file=renamed")
	must(t, os.Remove(p.path("c1/hosts")))
	p.write("c1/hosts", "made again")
	k.await(t, hosts, " file=made again")
	k.mu.Lock()
	k.refuse = 2
	k.mu.Unlock()
	p.project("kubernetes.io~configmap/v", "2", map[string]string{"key": "two", "more": "3"})
	k.await(t, config, " ..data=..2 key=..data/key more=..data/more")
	p.project("kubernetes.io~configmap/v", "3", map[string]string{"key": strings.Repeat("x", mostBytes+1)}) // which it keeps out
	p.project("kubernetes.io~configmap/v", "4", map[string]string{"key": "four"})
	k.await(t, config, " ..4/key=four ..data=..4 key=..data/key more=..data/more")
	k.mu.Lock()
	before := k.told
	k.mu.Unlock()
	p.write("c1/noise", "x")
	p.write("c1/hosts", "made again")
	time.Sleep(settle + 50*time.Millisecond) // it may be that nothing was looked at by then
	s.Close()
	if k.told != before {
		t.Errorf("the machine was told %d times of nothing", k.told-before)
	}
	p.write("c1/hosts", "after the end")
	must(t, g.Fill(t.Context(), k)) // follows nothing any more
	s.Close()
}

// TestMemory: a tmpfs of the pod is one volume, of which a part may be mounted.
func TestMemory(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") == "" {
		t.Skip("mounts: set UNI_QEMU_TESTS=1")
	}
	p, s, k := newPod(t), NewSet(), newKeeper()
	empty, part, shm := p.path("volumes/kubernetes.io~empty-dir/e"), p.path("volume-subpaths/e/ctr/0"), p.path("cri/shm")
	for _, m := range []struct{ dir, data string }{{empty, "size=1m,mode=2777,gid=7"}, {shm, "size=64m,mode=1777"}} {
		must(t, os.MkdirAll(m.dir, 0o755), unix.Mount("tmpfs", m.dir, "tmpfs", unix.MS_NOEXEC, m.data))
		t.Cleanup(func() { _ = unix.Unmount(m.dir, unix.MNT_DETACH) })
	}
	must(t, os.MkdirAll(part, 0o755), os.MkdirAll(filepath.Join(empty, "a/b"), 0o755), unix.Mount(filepath.Join(empty, "a/b"), part, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(part, unix.MNT_DETACH) })
	rest, g := take(t, s, bind(empty, "/e", "rw"), bind(part, "/part", "rw"), bind(shm, "/dev/shm", "rw"))
	if len(rest) != 0 || g.Mounts[0].Path != "" || g.Mounts[1].Path != "a/b" || g.Mounts[0].Volume != g.Mounts[1].Volume || g.Mounts[2].Volume == g.Mounts[0].Volume {
		t.Fatalf("%+v, %+v", rest, g.Mounts)
	}
	must(t, g.Fill(t.Context(), k))
	if got, want := k.has[g.Mounts[0].Volume], "noexec,mode=2777,uid=0,gid=7,size=1048576 a= a/b="; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := k.has[g.Mounts[2].Volume], "noexec,mode=1777,uid=0,gid=0,size=67108864"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestMemoryOfTheMachine: a path may stand for memory that is nowhere on the host.
func TestMemoryOfTheMachine(t *testing.T) {
	s, k := NewSet(), newKeeper()
	dir := t.TempDir()
	s.Memory(dir, []string{"size=1m", "mode=1777"})
	rest, g, err := s.Take([]specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: dir + "/"}})
	if err != nil || len(rest) > 0 || len(g.Mounts) != 1 {
		t.Fatalf("left %v, group %+v, %v", rest, g, err)
	}
	if err := g.Fill(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if got := k.has[g.Mounts[0].Volume]; got != "size=1m,mode=1777" {
		t.Errorf("the machine has %q", got)
	}
}
