package libvirt

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// probing is what libvirt 9.0 writes to its log when it starts a QEMU to find
// out what it can do.
const probing = "Try to probe capabilities"

// opener is the process that opened starts, and says whether this is one: it
// opens a driver below UNI_TEST_ROOT, creates a machine and closes it.
func opener(t *testing.T) bool {
	root := os.Getenv("UNI_TEST_ROOT")
	if os.Getenv("UNI_TEST_CHILD") != t.Name() || root == "" {
		return false
	}
	if os.Getenv("UNI_TEST_SUBREAPER") != "" {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	d, err := Open(t.Context(), Options{EmbedRoot: root, CapsCache: os.Getenv("UNI_TEST_CAPS"), Accel: AccelTCG, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("open: %v", time.Since(start).Round(time.Millisecond))
	g := newGuest(t, "uni-test--"+filepath.Base(filepath.Dir(root)), "microvm", "hang")
	create(t, d, g)
	destroyed(t, d, g)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	return true
}

// opened runs the test once more as an opener and returns libvirt's log, or
// fails.
func opened(t *testing.T, caps string, env ...string) <-chan string {
	t.Helper()
	root, parent := rootBelowRun(t)
	log := filepath.Join(parent, "libvirt.log")
	cmd := child(t, append(env, "UNI_TEST_ROOT="+root, "UNI_TEST_CAPS="+caps, "UNI_TEST_DIR="+parent,
		"LIBVIRT_LOG_FILTERS=1:qemu.qemu_process", "LIBVIRT_LOG_OUTPUTS=1:file:"+log)...)
	done := make(chan string, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Errorf("child: %v", err)
		}
		text, _ := os.ReadFile(log)
		done <- string(text)
	}()
	return done
}

// Two first starts at once probe QEMU once; later ones find it known.
func TestQEMUCapsAreShared(t *testing.T) {
	if opener(t) {
		return
	}
	needQEMU(t)
	caps := t.TempDir()
	first, second := opened(t, caps), opened(t, caps)
	a, b := <-first, <-second
	if (strings.Contains(a, probing)) == strings.Contains(b, probing) {
		t.Errorf("of two first starts both or none probed QEMU")
	}
	if !capsKnown(caps) {
		t.Error("what was found out is not shared")
	}
	renewed(t, caps)
	if third := <-opened(t, caps); third == "" || strings.Contains(third, probing) {
		t.Error("a later start probed QEMU again, or has no log")
	}
}

// renewed makes what is known of QEMU outdated, as an upgrade does, and sees that the
// next start finds that out, for those that follow too.
func renewed(t *testing.T, caps string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(caps, "*.xml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing is known: %v", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		old := regexp.MustCompile("<qemuctime>[0-9]*<").ReplaceAll(text, []byte("<qemuctime>1<"))
		if err := os.WriteFile(f, old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if log := <-opened(t, caps); !strings.Contains(log, probing) {
		t.Error("QEMU is another and was not probed")
	}
}

func TestQEMUProbingAsSubreaper(t *testing.T) {
	if opener(t) {
		return
	}
	needQEMU(t)
	if log := <-opened(t, t.TempDir(), "UNI_TEST_SUBREAPER=1"); !strings.Contains(log, probing) {
		t.Error("the first start did not probe QEMU")
	}
}

func TestQEMUWarm(t *testing.T) {
	if inChild(t) {
		return
	}
	caps := filepath.Join(t.TempDir(), "caps")
	if err := Warm(t.Context(), Options{CapsCache: caps, Log: t.Logf}); err != nil {
		t.Fatal(err)
	}
	if !capsKnown(caps) {
		t.Error("nothing is known of QEMU")
	}
	if left, _ := filepath.Glob("/run/uni-warm-*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
