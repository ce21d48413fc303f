package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unlike are the expectations of a shared directory that do not hold with a
// machine, and what the program says then. docs/shared-directories.md tells why.
var unlike = map[string]string{
	"mmap, shared, written, open for appending": "length is",
	"flock against the host":                    "given twice",
	"fcntl lock against the host":               "given twice",
	"access list":                               "operation not supported", // with one file system they are: TestAccessLists
	"default access list":                       "operation not supported",
	"O_TMPFILE":                                 "operation not supported",
	"inotify of the host's changes":             "events is 0",
	"socket of the host":                        "connection refused",
	"fifo to the host":                          "no such device or address",
}

// TestSharedDirectory puts what is expected of a shared directory to runc, with
// which all of it must hold, and to us.
func TestSharedDirectory(t *testing.T) {
	uniOnly(t)
	h := hostOf(t, newest())
	h.watch(t)
	h.load(t, sharesImage)
	table := map[string]map[string]string{}
	var order []string
	for _, runtime := range []string{"io.containerd.runc.v2", uniRuntime} {
		s := newSharer(t)
		r := h.ctr(t, append(append([]string{"run", "--rm", "--allow-new-privs", "--runtime", runtime}, s.mounts()...), sharesImage, "c1", "/shares")...)
		if r.Code != 0 {
			t.Fatalf("%s: %+v", runtime, r)
		}
		table[runtime] = map[string]string{}
		order = nil
		for line := range strings.Lines(r.Stdout) {
			name, said, _ := strings.Cut(strings.TrimSpace(line), ": ")
			table[runtime][name] = said
			order = append(order, name)
		}
		s.end()
	}
	if len(order) < 50 {
		t.Errorf("%d expectations only", len(order))
	}
	for _, name := range order {
		runc, uni := table["io.containerd.runc.v2"][name], table[uniRuntime][name]
		t.Logf("%-50s %-10s %s", name, runc, uni)
		if runc != "ok" {
			t.Errorf("%s: runc: %s", name, runc)
		}
		if known, ok := unlike[name]; ok != (uni != "ok") || !strings.Contains(uni, known) {
			t.Errorf("%s: %s, known is %q", name, uni, known)
		}
	}
}

// TestAccessLists: they are heeded where all that is shared is of one file system.
func TestAccessLists(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.load(t, sharesImage)
		r := h.run(t, container{image: sharesImage, flags: append(mount(t.TempDir(), "/a", "rbind:rw"), "--allow-new-privs")}, "/shares", "attributes")
		if r.Code != 0 || r.Stdout == "" || strings.Count(r.Stdout, ": ok\n") != strings.Count(r.Stdout, "\n") {
			t.Errorf("%+v", r)
		}
	})
}

// TestOwnFiles: files that a client makes for a container need no virtiofsd, and
// what it changes there is seen.
func TestOwnFiles(t *testing.T) {
	uniOnly(t)
	onNewest(t, func(t *testing.T, h *host) {
		hosts := filepath.Join(t.TempDir(), "c1", "hosts")
		write := func(data string) {
			if err := errors.Join(os.MkdirAll(filepath.Dir(hosts), 0o755), os.WriteFile(hosts, []byte(data), 0o640)); err != nil {
				t.Fatal(err)
			}
		}
		write("192.0.2.1 one\n")
		for _, tt := range []struct {
			name, source string
			daemons      int
		}{{"made for it", hosts, 0}, {"another", "/etc/hosts", 2}} {
			flags := append(mount(tt.source, "/etc/hosts", "rbind:rw"), mount(tt.source, "/etc/resolv.conf", "rbind:ro")...)
			h.run(t, container{flags: flags}, "true") // so that the next finds all in caches
			began := time.Now()
			for range 3 {
				if r := h.run(t, container{flags: flags}, "true"); r.Code != 0 {
					t.Fatalf("%+v", r)
				}
			}
			t.Logf("%s: %d ms", tt.name, time.Since(began).Milliseconds()/3)
			h.detach(t, container{flags: flags}, "sleep", "1000")
			if found := h.find(t, "virtiofsd"); len(found) != tt.daemons {
				t.Errorf("%s: virtiofsd processes %v, want %d", tt.name, found, tt.daemons)
			}
			exec := func(script string) string {
				t.Helper()
				return h.ctr(t, "tasks", "exec", "--exec-id", fmt.Sprint("x", sites.Add(1)), "c1", "sh", "-c", script).Stdout
			}
			if tt.daemons == 0 {
				if got, want := exec("cat /etc/hosts; stat -c %a /etc/hosts; echo x 2>/dev/null >>/etc/resolv.conf || echo refused"), "192.0.2.1 one\n640\nrefused\n"; got != want {
					t.Errorf("%q, want %q", got, want)
				}
				write("192.0.2.2 two\n")
				eventually(t, "the change is seen", func() bool { return exec("cat /etc/hosts") == "192.0.2.2 two\n" })
			}
			h.RemoveAll(t.Context())
		}
	})
}

// TestVirtiofsdIsTheContainers: what a container's reads and writes cost on the
// host counts as its own.
func TestVirtiofsdIsTheContainers(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		h.detach(t, container{flags: mount(t.TempDir(), "/a", "rbind:rw")}, "sleep", "1000")
		found := h.find(t, "virtiofsd")
		if len(found) != 2 {
			t.Errorf("processes %v, want virtiofsd and the child in which it works", found)
		}
		for _, pid := range found {
			groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if err != nil || !strings.Contains(string(groups), h.Namespace) {
				t.Errorf("process %d is in %s, %v", pid, groups, err)
			}
		}
		h.RemoveAll(t.Context())
	})
}

// sharer is the host's side of shared directories.
type sharer struct {
	t    *testing.T
	top  string
	quit chan struct{}
	done chan struct{}
	open []io.Closer
}

// newSharer makes what the program shares expects, and does what it asks for.
func newSharer(t *testing.T) *sharer {
	t.Helper()
	s := &sharer{t: t, top: t.TempDir(), quit: make(chan struct{}), done: make(chan struct{})}
	s.must(os.MkdirAll(s.path("a/sub"), 0o755), os.MkdirAll(s.path("a/watched"), 0o755), os.Mkdir(s.path("a/ask"), 0o755))
	s.tmpfs("b", "size=16m")
	s.tmpfs("a/below", "")
	s.tmpfs("later", "")
	s.must(unix.Mount("", s.path("later"), "", unix.MS_SHARED, ""))
	for _, file := range []string{"a/below/here", "one", "b/two"} {
		s.must(os.WriteFile(s.path(file), nil, 0o644))
	}
	s.lock()
	s.listen()
	go s.serve()
	t.Cleanup(s.end)
	return s
}

func (s *sharer) path(name string) string { return filepath.Join(s.top, name) }

func (s *sharer) must(errs ...error) {
	s.t.Helper()
	if err := errors.Join(errs...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sharer) tmpfs(name, data string) {
	s.t.Helper()
	s.must(os.MkdirAll(s.path(name), 0o755), unix.Mount("tmpfs", s.path(name), "tmpfs", 0, data))
	s.t.Cleanup(func() { _ = unix.Unmount(s.path(name), unix.MNT_DETACH) }) // it may be gone
}

// mounts are the flags of "ctr run".
func (s *sharer) mounts() []string {
	var flags []string
	for _, m := range [][3]string{
		{"a", "/a", "rbind:rw"}, {"a/sub", "/sub", "rbind:rw"}, {"b", "/b", "rbind:rw"}, {"a", "/ro", "rbind:ro"},
		{"later", "/later", "rbind:rslave:rw"}, {"later", "/private", "rbind:rprivate:rw"},
		{"one", "/one", "rbind:ro"}, {"b/two", "/two", "rbind:ro"},
	} {
		flags = append(flags, mount(s.path(m[0]), m[1], m[2])...)
	}
	return flags
}

// lock takes both kinds of locks of a file.
func (s *sharer) lock() {
	f, err := os.Create(s.path("a/locked"))
	s.must(err)
	s.open = append(s.open, f)
	s.must(unix.Flock(int(f.Fd()), unix.LOCK_EX), unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
}

// listen answers on a socket and reads a fifo.
func (s *sharer) listen() {
	l, err := net.Listen("unix", s.path("a/host.sock"))
	s.must(err, unix.Mkfifo(s.path("a/host.fifo"), 0o600))
	f, err := os.OpenFile(s.path("a/host.fifo"), os.O_RDWR|unix.O_NONBLOCK, 0)
	s.must(err)
	s.open = append(s.open, l, f)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
}

// serve does what the program asks for until the end.
func (s *sharer) serve() {
	defer close(s.done)
	for {
		select {
		case <-s.quit:
			return
		case <-time.After(10 * time.Millisecond):
		}
		asked, err := os.ReadDir(s.path("a/ask"))
		for _, a := range asked {
			if info, err := a.Info(); err != nil || info.Size() == 0 {
				continue // it is being made
			}
			if err = errors.Join(err, s.act(a.Name())); err == nil {
				err = os.Remove(s.path("a/ask/" + a.Name()))
			}
		}
		if err != nil {
			s.t.Error(err)
			return
		}
	}
}

func (s *sharer) act(what string) error {
	switch what {
	case "copy":
		text, err := os.ReadFile(s.path("a/copy.in"))
		return errors.Join(err, os.WriteFile(s.path("a/copy.out"), text, 0o600))
	case "write":
		return os.WriteFile(s.path("a/host.txt"), []byte("after all"), 0o600)
	case "change":
		return os.WriteFile(s.path("a/watched/new"), nil, 0o600)
	case "mount":
		dir := s.path("later/new")
		return errors.Join(os.Mkdir(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, ""), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	case "unmount":
		return unix.Unmount(s.path("later/new"), unix.MNT_DETACH)
	default:
		return fmt.Errorf("the program asks for %q", what)
	}
}

// end ends the host's side; it may be called again.
func (s *sharer) end() {
	select {
	case <-s.quit:
		return
	default:
	}
	close(s.quit)
	<-s.done
	for _, c := range s.open {
		c.Close()
	}
	_ = unix.Unmount(s.path("later/new"), unix.MNT_DETACH) // if the program did not come so far
}
