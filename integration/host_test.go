package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/integration/leak"
	"containerd-shim-uni/integration/peer"
)

var (
	// leakTimeout bounds the wait for what ends a moment after the container.
	leakTimeout = patience * 20 * time.Second
	// callTimeout bounds each call of ctr: a boot takes seconds without KVM.
	callTimeout = patience * time.Minute
)

// patience is how many times longer than usual the tests wait on a slow host.
// The runtime's own deadlines stay as they are.
var patience = func() time.Duration {
	n, err := strconv.Atoi(os.Getenv("UNI_TEST_PATIENCE"))
	if err != nil || n < 1 {
		return 1
	}
	return time.Duration(n)
}()

// host is a running containerd with the images imported.
type host struct {
	*peer.Peer
	state, data string // the runtime's storage directories
	config      string // the runtime's configuration file
	hasPython   bool   // its image was imported
	cgroup      string // leak.Scope's
}

// on runs a test against each containerd version, and afterwards looks for
// what it left behind.
func on(t *testing.T, test func(*testing.T, *host)) {
	t.Helper()
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			h := hostOf(t, v)
			h.watch(t)
			test(t, h)
		})
	}
}

// hostOf starts the containerd of a version when a test first asks for it.
func hostOf(t *testing.T, version string) *host {
	t.Helper()
	if h, ok := world.hosts[version]; ok {
		return h
	}
	h, err := newHost(t.Context(), version, version, nil)
	if err != nil {
		t.Fatal(err)
	}
	world.hosts[version] = h
	h.load(t, busybox, hello)
	if os.Getenv("UNI_TEST_TEMPLATE") == "made" {
		for n := range 4 {
			if _, err := h.uniCommand(t, "template", "make", "--interfaces", strconv.Itoa(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

// newHost starts a containerd below a folder of the run's directory, with a
// configuration of the runtime of its own; wrap as in peer.Options, which may be
// changed further.
func newHost(ctx context.Context, version, folder string, wrap []string, changes ...func(*peer.Options)) (*host, error) {
	dir := filepath.Join(world.dir, folder)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	// libvirt's embedded driver keeps sockets below it: 25 bytes is the most.
	state := filepath.Join("/run", filepath.Base(world.dir)+"-"+slug(folder))
	h := &host{state: state, data: filepath.Join(dir, "lib"), config: filepath.Join(dir, "uni.toml")}
	if err := os.WriteFile(h.config, []byte(h.settings().toml()), 0o644); err != nil {
		return nil, err
	}
	o := peer.Options{
		Version:   version,
		Programs:  filepath.Join(world.cache, "peers"),
		Dir:       dir,
		Namespace: "t" + strings.TrimPrefix(filepath.Base(world.dir), "uni-") + slug(folder),
		Marks:     []string{h.state},
		Wrap:      wrap,
		Path:      []string{filepath.Join(world.out, "bin")},
		Env:       []string{"UNI_CONFIG=" + h.config},
	}
	for _, change := range changes {
		change(&o)
	}
	var err error
	h.Peer, err = peer.Start(ctx, o)
	return h, err
}

// slug keeps what containerd allows in an identifier.
func slug(s string) string {
	keep := func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789", r) {
			return r
		}
		return -1
	}
	return strings.Map(keep, strings.ToLower(s))
}

// load imports images.
func (h *host) load(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		h.ok(t, "images", "import", archive(name))
	}
}

// need imports the image of a container if it is not one that every host has.
func (h *host) need(t *testing.T, c container) {
	t.Helper()
	if c.image != python || h.hasPython {
		return
	}
	needPython(t)
	h.load(t, python)
	h.hasPython = true
}

// watch fails the test when it leaves something behind. Containers that a
// failed test did not remove are removed first.
func (h *host) watch(t *testing.T) {
	t.Helper()
	c := h.checker()
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			defer cancel()
			h.RemoveAll(ctx)
			t.Logf("containerd's log ends:\n%s", tail(h.Log(), 30))
		}
		h.awaitMakers(t)
		nothingLeft(t, c)
	})
}

// checker takes stock of what there is of this host.
func (h *host) checker() *leak.Checker {
	return leak.NewChecker(leak.Scope{
		Namespace: h.Namespace, Cgroup: h.cgroup, Dir: h.Dir, StateDir: h.state, DataDir: h.data,
		Processes: h.Processes, Mounts: h.Mounts,
	})
}

// nothingLeft fails the test with what is there after a while that was not
// there before.
func nothingLeft(t *testing.T, c *leak.Checker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), leakTimeout)
	defer cancel()
	for _, l := range c.Wait(ctx) {
		t.Errorf("left behind: %s", l)
	}
}

// tail is the end of a file for a failed test's log.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// end stops the host's containerd and removes the runtime's directories.
func (h *host) end() error {
	return errors.Join(h.Stop(), os.RemoveAll(h.state))
}

// uniOnly leaves out a test that says nothing about another runtime; it is
// never skipped in a run for io.containerd.uni.v1.
func uniOnly(t *testing.T) {
	t.Helper()
	if world.runtime != uniRuntime {
		t.Skip("is about " + uniRuntime + " only")
	}
}
