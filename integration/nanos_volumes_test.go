package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// source makes a directory with nested files, links and a large file, and
// returns it with the large file's SHA-256.
func source(t *testing.T) (dir, sum string) {
	t.Helper()
	dir = t.TempDir()
	data := make([]byte, 50<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "a/b/proc"), 0o755), os.Mkdir(filepath.Join(dir, "dev"), 0o755),
		os.WriteFile(filepath.Join(dir, "a/b/proc/f"), []byte("deep\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "dev/f"), []byte("dev\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644),
		os.Symlink("a/b", filepath.Join(dir, "relative")), os.Symlink("/etc/made", filepath.Join(dir, "absolute")),
		os.Link(filepath.Join(dir, "dev/f"), filepath.Join(dir, "hard")),
		os.WriteFile(filepath.Join(dir, "large"), data, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return dir, fmt.Sprintf("%x", sha256.Sum256(data))
}

// mount is a flag of ctr.
func mount(src, dst, options string) []string {
	return []string{"--mount", fmt.Sprintf("type=bind,src=%s,dst=%s,options=%s", src, dst, options)}
}

func tmpfs(dst, options string) []string {
	return []string{"--mount", fmt.Sprintf("type=tmpfs,src=tmpfs,dst=%s,options=%s", dst, options)}
}

func all(lists ...[]string) (out []string) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// withNanos is with, for nanos.
func (h *host) withNanos(t *testing.T, changes settings) {
	t.Helper()
	all := nanosSettings("auto")
	maps.Copy(all, changes)
	h.with(t, all)
}

const listTree = `
import hashlib, os, sys
top = sys.argv[1]
for at, dirs, files in os.walk(top):
    dirs.sort()
    for n in sorted(dirs + files):
        p = os.path.join(at, n)
        if os.path.islink(p): print(p[len(top):], '->', os.readlink(p))
        elif os.path.isfile(p): print(p[len(top):], os.path.getsize(p), hashlib.sha256(open(p, 'rb').read()).hexdigest())
        else: print(p[len(top):])
print(open(top + '/absolute').read(), open(top + '/relative/proc/f').read(), end='')
`

// tries opens files for writing and prints what comes of it.
const tries = `
import errno, sys
for how in sys.argv[1:]:
    try: open(how, 'r+' if how.endswith('large') else 'w').write('x'); print('wrote')
    except OSError as e: print(errno.errorcode[e.errno])
`

// A read-only directory shows all of its source, at a place that the image does
// not have, and cannot be written to; nor can a large file.
func TestNanosReadOnlyVolumes(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		dir, sum := source(t)
		large := filepath.Join(dir, "large")
		flags := all(mount(dir, "/no/such/place", "rbind:ro"), mount(large, "/models/large", "rbind:ro"),
			mount(filepath.Join(dir, "a/b/proc/f"), "/etc/made", "rbind:ro"))
		got := h.run(t, container{image: python, flags: flags}, "python3", "-c", listTree, "/no/such/place")
		of := func(text string) string { return fmt.Sprintf("%d %x", len(text), sha256.Sum256([]byte(text))) }
		want := "/a\n/absolute -> /etc/made\n/dev\n/empty " + of("") + "\n/hard " + of("dev\n") + "\n/large 52428800 " + sum +
			"\n/relative -> a/b\n/a/b\n/a/b/proc\n/a/b/proc/f " + of("deep\n") + "\n/dev/f " + of("dev\n") + "\ndeep\n deep\n"
		if got.Code != 0 || got.Stdout != want {
			t.Errorf("got %+v, want\n%s", got, want)
		}
		got = h.run(t, container{image: python, flags: flags}, "python3", "-c", tries+`
import hashlib
print(hashlib.sha256(open('/models/large', 'rb').read()).hexdigest())
`, "/no/such/place/a/b/proc/f", "/no/such/place/new", "/models/large", "/etc/made", "/models/beside")
		if want := "EROFS\nEROFS\nEROFS\nwrote\nwrote\n" + sum + "\n"; got.Code != 0 || got.Stdout != want {
			t.Errorf("writing: got %+v, want %q", got, want)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "a/b/proc/f")); err != nil || string(text) != "deep\n" {
			t.Errorf("the host's file holds %q, %v", text, err)
		}
	})
}

// Containers with one source share its disk; a machine has room for many.
func TestNanosSharedVolumes(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		dir := filepath.Join(world.out, "guest") // did not change of late
		var many []string
		for i := range 6 {
			many = append(many, mount(dir, fmt.Sprintf("/m%d", i), "rbind:ro")...)
		}
		program := "import os, time\nfor d in sorted(os.listdir('/')):\n if d.startswith('m') and d[1:].isdigit(): print(d, os.path.getsize('/' + d + '/vmlinux'), flush=True)\nprint('done', flush=True)\ntime.sleep(1000)"
		st, err := os.Stat(filepath.Join(dir, "vmlinux"))
		if err != nil {
			t.Fatal(err)
		}
		one := h.start(t, container{id: "one", image: python, flags: mount(dir, "/m0", "rbind:ro")}, "python3", "-c", program)
		one.expect(t, fmt.Sprintf("m0 %d", st.Size()))
		one.expect(t, "done")
		two := h.start(t, container{id: "two", image: python, flags: many}, "python3", "-c", program)
		two.expect(t, fmt.Sprintf("m5 %d", st.Size()))
		two.expect(t, "done")
		disks, err := filepath.Glob(filepath.Join(h.data, "cache/volumes/*.tfs"))
		if err != nil {
			t.Fatal(err)
		}
		used, most := 0, 0
		for _, d := range disks {
			info, err := os.Stat(d)
			if err != nil {
				t.Fatal(err)
			}
			if users := int(info.Sys().(*syscall.Stat_t).Nlink) - 1; users > 0 {
				used, most = used+1, max(most, users)
			}
		}
		if used != 6 || most != 2 {
			t.Errorf("%d disks for six mounts, at most %d containers share one: %v", used, most, disks)
		}
		for _, r := range []struct {
			id string
			*running
		}{{"one", one}, {"two", two}} {
			h.ok(t, "task", "kill", "-s", "SIGKILL", r.id)
			r.finish()
		}
	})
}

// A tmpfs is empty and can be written to, up to its size, wherever it is.
func TestNanosTmpfs(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		flags := all(tmpfs("/etc", "size=8m"), tmpfs("/new/t", "size=1m"))
		got := h.run(t, container{flags: flags}, "sh", "-c",
			`for d in /etc /new/t /dev/shm /run; do echo "$d" >$d/f; read x <$d/f; echo "$x"; done; test -e /etc/passwd || echo hidden`)
		if want := "/etc\n/new/t\n/dev/shm\n/run\nhidden\n"; got.Code != 0 || got.Stdout != want {
			t.Errorf("got %+v, want %q", got, want)
		}
		for count, fits := range map[int]bool{4: true, 40: false} {
			got := h.run(t, container{flags: flags}, "dd", "if=/dev/urandom", "of=/etc/f", "bs=1M", fmt.Sprint("count=", count))
			if fits != (got.Code == 0) || fits == strings.Contains(got.Stdout, "No space left on device") {
				t.Errorf("%d MiB in 8: %+v", count, got)
			}
		}
		got = h.run(t, container{flags: []string{"--read-only"}}, "sh", "-c",
			`echo text >/run/f; read x </run/f; echo "$x"; echo y >/f`)
		if !strings.HasPrefix(got.Stdout, "text\n") || !strings.Contains(got.Stdout, "ead-only file system") {
			t.Errorf("read-only root: %+v", got)
		}
	})
}

// A writable bind mount is refused, or a copy if the configuration says so.
func TestNanosWritableBind(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c := container{flags: mount(dir, "/data", "rbind:rw")}
		h.refused(t, c, "cannot write to the host's directory "+dir, "/data", "read-only", "guest=linux", "nanos.writable_binds")
		h.ctr(t, "container", "rm", "c1")
		h.withNanos(t, settings{"nanos.writable_binds": `"copy"`})
		got := h.run(t, c, "sh", "-c", `read x </data/f; echo "$x"; echo guest >/data/f; echo new >/data/g; read x </data/f; echo "$x"`)
		if want := "host\nguest\n"; got.Code != 0 || got.Stdout != want {
			t.Errorf("got %+v, want %q", got, want)
		}
		entries, err := os.ReadDir(dir)
		text, rerr := os.ReadFile(filepath.Join(dir, "f"))
		if err := errors.Join(err, rerr); err != nil || len(entries) != 1 || string(text) != "host\n" {
			t.Errorf("the host has %v, %q, %v", entries, text, err)
		}
	})
}

func TestNanosMountsRefused(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		dir := t.TempDir()
		data := make([]byte, 3<<20)
		_, _ = rand.NewChaCha8([32]byte{2}).Read(data) // zeros would be a hole
		if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		h.withNanos(t, settings{"nanos.volume_max_size": `"2MiB"`})
		h.refused(t, container{flags: mount(dir, "/data", "rbind:ro")}, dir, "has 3 MiB", "at most 2 MiB", "nanos.volume_max_size")
		h.ctr(t, "container", "rm", "c1")
		h.withNanos(t, settings{"nanos.volume_max_size": `"4MiB"`, "storage.data_dir": fmt.Sprintf("%q", smallDisk(t, "40m")), "storage.min_free": `"0B"`})
		var much []string
		for i := range 15 {
			much = append(much, mount(dir, fmt.Sprintf("/d%d", i), "rbind:ro")...)
		}
		h.refused(t, container{flags: much}, "no space left on device", "has no room for the copy")
		h.ctr(t, "container", "rm", "c1")
		h.refused(t, container{flags: all(mount(dir, "/a", "rbind:ro"), mount(dir, "/a/b", "rbind:ro"))}, "/a/b lies in /a", `guest "linux"`)
		h.ctr(t, "container", "rm", "c1")
		var many []string
		for i := range 25 {
			many = append(many, tmpfs(fmt.Sprintf("/m%d", i), "ro")...)
			many = append(many, mount(t.TempDir(), fmt.Sprintf("/n%d", i), "rbind:ro")...)
		}
		h.refused(t, container{flags: many}, "room for 24 devices")
	})
}

// Volumes go with a container whose shim was killed.
func TestNanosVolumesAfterShimKilled(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		flags := all(mount(t.TempDir(), "/data", "rbind:ro"), tmpfs("/etc", "size=1m"))
		r := h.start(t, container{image: python, flags: flags}, "python3", "-c", "import time; print('ready', flush=True); time.sleep(1000)")
		r.expect(t, "ready")
		kill(t, h.shims(t))
		if code := r.finish(); code == 0 {
			t.Error("ctr run reports success")
		}
		h.RemoveAll(t.Context())
	})
}
