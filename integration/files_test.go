package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestFilesAcrossStops: what a container writes is there when it starts again,
// however it ended.
func TestFilesAcrossStops(t *testing.T) {
	s := newSite(t)
	s.up(t, []string{"--name", "box"}, "sh", "-c", "echo run >>/var/count; wc -l </var/count; exec sleep 1000")
	ran := func(want string) {
		t.Helper()
		eventually(t, "it has run", func() bool { return s.do(t, "logs", "box") == want })
	}
	ran("1\n")
	s.do(t, "stop", "-t", "1", "box")
	s.do(t, "start", "box")
	ran("1\n2\n")
	s.do(t, "kill", "box")
	eventually(t, "the container has ended", func() bool {
		return s.do(t, "inspect", "-f", "{{.State.Status}}", "box") == "exited\n"
	})
	s.do(t, "start", "box")
	ran("1\n2\n3\n")
	s.do(t, "rm", "-f", "box")
}

// TestFilesForOthers: what a container wrote, removed and changed is in its
// snapshot once it has stopped, for all who look there; and what they put there is
// in the container when it starts again.
func TestFilesForOthers(t *testing.T) {
	s := newSite(t)
	s.up(t, []string{"--name", "box"}, "sh", "-c", `
		test -e /added && { cat /added /written; ls /etc/group /bin/busybox; exec sleep 1000; }
		mkdir -p /d/e; echo one >/d/e/f; ln /d/e/f /d/hard; ln -s e/f /d/soft; rm /etc/group; echo more >>/etc/passwd
		dd if=/dev/zero of=/zeros bs=1M count=8 2>/dev/null; echo written >/written; chown 7:8 /written; chmod 4750 /written
		echo ready; exec sleep 1000`)
	eventually(t, "the container is ready", func() bool { return s.do(t, "logs", "box") == "ready\n" })
	s.do(t, "stop", "-t", "1", "box")

	diff := s.do(t, "diff", "box")
	contains(t, diff, "A /d/e/f", "A /d/hard", "A /d/soft", "A /written", "D /etc/group", "C /etc/passwd")
	dir := t.TempDir()
	s.do(t, "cp", "box:/d", dir)
	if data, err := os.ReadFile(filepath.Join(dir, "d/e/f")); err != nil || string(data) != "one\n" {
		t.Errorf("cp from the container: %q, %v", data, err)
	}
	if size := s.do(t, "ps", "-a", "-s", "--format", "{{.Size}}"); !strings.HasPrefix(size, "8.") && !strings.HasPrefix(size, "9.") {
		t.Errorf("ps -s says %q", size)
	}
	s.do(t, "commit", "box", "uni.local/committed:latest")
	got := s.nerdctl(t, "run", "--rm", "--net", "none", "--runtime", uniRuntime, "uni.local/committed:latest", "sh", "-c",
		"cat /d/soft; stat -c '%u %g %a %h' /written /d/hard; wc -c </zeros; tail -n 1 /etc/passwd; ls /etc/group")
	if want := "one\n7 8 4750 1\n0 0 644 2\n8388608\nmore\n"; got.Stdout != want {
		t.Errorf("the image of it gives %+v, want %q", got, want)
	}

	if err := os.WriteFile(filepath.Join(dir, "added"), []byte("added\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.do(t, "cp", filepath.Join(dir, "added"), "box:/added")
	s.do(t, "start", "box")
	var logs string
	eventually(t, "it has run again", func() bool {
		logs = s.do(t, "logs", "box")
		return strings.Contains(logs, "/bin/busybox")
	})
	if want := "ready\nadded\nwritten\n/bin/busybox\n"; logs != want {
		t.Errorf("after the second start: %q, want %q", logs, want)
	}
	s.do(t, "rm", "-f", "box")
	s.do(t, "rmi", "uni.local/committed:latest")
}

// TestFilesPutAfterAFailedStart: a container whose program was not there, or could
// not be started, starts once the program has been put there.
func TestFilesPutAfterAFailedStart(t *testing.T) {
	s := newSite(t)
	good, bad := filepath.Join(t.TempDir(), "good"), filepath.Join(t.TempDir(), "bad")
	for path, text := range map[string]string{good: "#!/bin/sh\necho it runs\n", bad: "#!/no/such/shell\n"} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, fails := range [][]string{{}, {bad}} { // before there is a machine, and inside it
		got := s.nerdctl(t, "run", "-d", "--name", "box", "--net", "none", "--runtime", uniRuntime, busybox, "/prog")
		contains(t, got.Stderr, "no such file or directory")
		for _, file := range fails {
			s.do(t, "cp", file, "box:/prog")
			got := s.nerdctl(t, "start", "box")
			contains(t, got.Stderr, "/prog")
		}
		s.do(t, "cp", good, "box:/prog")
		s.do(t, "start", "box")
		eventually(t, "it has run", func() bool { return s.do(t, "logs", "box") == "it runs\n" })
		s.do(t, "rm", "-f", "box")
	}
}

const counting = "echo run >>/count; rm -f /bin/vi; echo more >>/etc/passwd; wc -l </count; ls /bin/vi 2>&1; tail -n 2 /etc/passwd"

// TestFilesOfEverySnapshotter: those that have no directory for the layer get what
// was written into their files.
func TestFilesOfEverySnapshotter(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		for _, snapshotter := range []string{"overlayfs", "native"} {
			h.detach(t, container{flags: []string{"--snapshotter", snapshotter}}, "sh", "-c", counting)
			h.deleteTask(t, "c1")
			for _, n := range []string{"2", "3"} {
				got := h.ok(t, "tasks", "start", "c1")
				if want := n + "\nls: /bin/vi: No such file or directory\nmore\nmore\n"; got != want {
					t.Errorf("%s: %q, want %q", snapshotter, got, want)
				}
			}
			h.ok(t, "containers", "delete", "c1")
		}
	})
}

// TestPowerCut: when all processes and all of /run are gone, what was synced is
// there; and when the container is deleted, the next shim finds what it left.
func TestPowerCut(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		for _, snapshotter := range []string{"overlayfs", "native"} {
			sockets, _ := filepath.Glob("/run/containerd/s/*")
			r := h.start(t, container{keep: true, flags: []string{"--snapshotter", snapshotter}}, "sh", "-c",
				"test -e /big && exec sleep 1000; dd if=/dev/zero of=/big bs=1M count=60 conv=fsync 2>/dev/null; echo ready; exec sleep 1000")
			r.expect(t, "ready")
			h.powerCut(t, sockets)
			r.finish()
			h.ok(t, "tasks", "start", "-d", "c1")
			if got := h.ok(t, "tasks", "exec", "--exec-id", "x", "c1", "wc", "-c", "/big"); got != "62914560 /big\n" {
				t.Errorf("%s: after the power cut: %q", snapshotter, got)
			}
			h.powerCut(t, sockets)
			h.ok(t, "containers", "delete", "c1")
			if left, _ := filepath.Glob(filepath.Join(h.data, "containers", "*")); len(left) != 1 {
				t.Errorf("%s: left by the power cut: %v", snapshotter, left)
			}
			h.run(t, container{}, "sleep", "5") // time for its shim to look
			eventually(t, "the next shim has removed it", func() bool {
				left, err := filepath.Glob(filepath.Join(h.data, "containers", "*"))
				return err == nil && len(left) == 0
			})
		}
	})
}

// powerCut does to a host what one does, but for its kernel.
func (h *host) powerCut(t *testing.T, sockets []string) {
	t.Helper()
	if err := h.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killAny(t, h.Processes())
	eventually(t, "no process is left", func() bool { return len(h.Processes()) == 0 })
	mounts, err := h.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	now, _ := filepath.Glob("/run/containerd/s/*")
	for _, s := range now {
		if !slices.Contains(sockets, s) {
			_ = os.Remove(s)
		}
	}
	eventually(t, "no cgroup is left", func() bool {
		left := 0
		for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			files, _ := filepath.Glob(filepath.Join(pattern, h.Namespace, "*"))
			parents, _ := filepath.Glob(filepath.Join(pattern, h.Namespace))
			for _, f := range slices.Concat(files, parents) {
				if st, err := os.Lstat(f); err == nil && st.IsDir() && syscall.Rmdir(f) != nil {
					left++
				}
			}
		}
		return left == 0
	})
	for _, dir := range []string{h.state, h.State()} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Restart(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
