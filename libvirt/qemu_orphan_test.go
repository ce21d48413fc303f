package libvirt

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/unikernel"
)

// ownMachine is the process that owns a machine in the tests below, each of which is
// that process too: it starts one below UNI_TEST_ROOT, says so and waits to be
// killed. In the test itself it returns at once.
func ownMachine(t *testing.T) {
	root := os.Getenv("UNI_TEST_ROOT")
	if os.Getenv("UNI_TEST_CHILD") != t.Name() || root == "" {
		return
	}
	d := open(t, Options{EmbedRoot: root})
	g := newGuest(t, "uni-test--orphan", "microvm", os.Getenv("UNI_TEST_DO"))
	g.disk(t, "root", "root", true)
	if os.Getenv("UNI_TEST_SHARE") != "" {
		g.machine.Share = &unikernel.Share{Source: filepath.Join(g.dir, "share"), Tag: "share"}
		if err := os.Mkdir(g.machine.Share.Source, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pids, console := run(t, d, g)
	console.await(t, "init "+os.Getenv("UNI_TEST_DO"))
	t.Logf("machine %d %d", pids.VM, append(pids.Helpers, 0)[0])
	<-t.Context().Done()
}

// orphan starts an owner and kills it; QEMU and virtiofsd stay.
func orphan(t *testing.T, root, do string, share bool) (qemu, virtiofsd int) {
	t.Helper()
	_, files := rootBelowRun(t)
	env := []string{"UNI_TEST_ROOT=" + root, "UNI_TEST_DO=" + do, "UNI_TEST_DIR=" + files}
	if share {
		env = append(env, "UNI_TEST_SHARE=1")
	}
	cmd := child(t, env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		t.Logf("owner: %s", lines.Text())
		if _, text, ok := strings.Cut(lines.Text(), ": machine "); ok {
			first, second, _ := strings.Cut(text, " ")
			qemu, virtiofsd = number(first), number(second)
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if qemu == 0 || len(arguments(qemu)) == 0 {
		t.Fatalf("QEMU %d did not outlive its owner", qemu)
	}
	t.Cleanup(func() { _ = CleanUp(context.Background(), Options{EmbedRoot: root}, "uni-test--orphan") })
	return qemu, virtiofsd
}

func rootBelowRun(t *testing.T) (root, parent string) {
	t.Helper()
	parent, err := os.MkdirTemp("/run", "uni-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(parent, "lv"), parent
}

func TestQEMUCleanUpAfterOwner(t *testing.T) {
	ownMachine(t)
	needQEMU(t)
	root, parent := rootBelowRun(t)
	qemu, virtiofsd := orphan(t, root, "hang", true)
	start := time.Now()
	if err := CleanUp(t.Context(), Options{EmbedRoot: root}, "uni-test--orphan"); err != nil {
		t.Fatal(err)
	}
	t.Logf("clean up: %v", time.Since(start).Round(time.Millisecond))
	for name, pid := range map[string]int{"QEMU": qemu, "virtiofsd": virtiofsd} {
		if pid == 0 || len(arguments(pid)) > 0 {
			t.Errorf("%s %d still runs", name, pid)
		}
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := CleanUp(t.Context(), Options{EmbedRoot: root}, "uni-test--orphan"); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// Another process opens the root of a dead one, can wait for its machine, use
// it and destroy it.
func TestQEMUAdopt(t *testing.T) {
	ownMachine(t)
	if os.Getenv("UNI_TEST_CHILD") == t.Name() {
		adopt(t, os.Getenv("UNI_TEST_ADOPT"))
		return
	}
	needQEMU(t)
	root, parent := rootBelowRun(t)
	orphan(t, root, "hang", false)
	if inChild(t, "UNI_TEST_ADOPT="+root) {
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func adopt(t *testing.T, root string) {
	const name = "uni-test--orphan"
	d := open(t, Options{EmbedRoot: root})
	if err := d.Pause(t.Context(), name); err != nil {
		t.Errorf("pause: %v", err)
	}
	if _, err := d.Create(t.Context(), unikernel.Machine{Name: name}); err == nil {
		t.Error("a second machine of the name was created")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if end, err := d.Wait(ctx, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait for a paused machine: %v, %v", end, err)
	}
	qemu := findQEMU(d.target, name)
	if qemu == nil {
		t.Fatal("QEMU is not found")
	}
	if err := qemu.signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	ended(t, d, name, unikernel.EndFailed)
	if err := d.Destroy(t.Context(), name); err != nil {
		t.Errorf("destroy: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// A guest that powered off while its owner was dead is found shut down.
func TestQEMUAdoptEnded(t *testing.T) {
	ownMachine(t)
	if os.Getenv("UNI_TEST_CHILD") == t.Name() {
		d := open(t, Options{EmbedRoot: os.Getenv("UNI_TEST_ADOPT")})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if end, err := d.Wait(ctx, "uni-test--orphan"); err == nil && end.Reason != unikernel.EndShutdown {
			t.Errorf("ended: %v", end)
		} else if err != nil && !errors.Is(err, unikernel.ErrNotFound) {
			t.Error(err)
		}
		if err := errors.Join(d.Destroy(t.Context(), "uni-test--orphan"), d.Close()); err != nil {
			t.Error(err)
		}
		return
	}
	needQEMU(t)
	root, parent := rootBelowRun(t)
	orphan(t, root, "later", false)
	time.Sleep(2 * time.Second) // the guest powers off
	if inChild(t, "UNI_TEST_ADOPT="+root) {
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// Wherever in its start the owner is killed, its name is enough to clean up.
func TestQEMUOwnerKilledWhileCreating(t *testing.T) {
	ownMachine(t)
	needQEMU(t)
	for i := range 10 {
		root, parent := rootBelowRun(t)
		_, files := rootBelowRun(t)
		cmd := child(t, "UNI_TEST_ROOT="+root, "UNI_TEST_DO=hang", "UNI_TEST_DIR="+files, "UNI_TEST_SHARE=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.Contains(lines.Text(), "open: ") { // and begins to create
				break
			}
		}
		time.Sleep(time.Duration(i) * 12 * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if err := CleanUp(t.Context(), Options{EmbedRoot: root}, "uni-test--orphan"); err != nil {
			t.Errorf("killed %d ms into Create: %v", i*12, err)
		}
		time.Sleep(100 * time.Millisecond)
		for p := range allProcesses(func(args []string) bool { return strings.Contains(strings.Join(args, " "), parent+"/") }) {
			t.Errorf("killed %d ms into Create: left %v", i*12, arguments(p.pid))
			_ = p.signal(unix.SIGKILL)
			p.close()
		}
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("killed %d ms into Create: left %v", i*12, left)
		}
	}
}
