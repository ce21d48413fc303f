package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/integration/image"
)

// Programs as they come from Debian serve a request from outside.
func TestNanosServers(t *testing.T) {
	onNewestNanos(t, "auto", func(t *testing.T, h *host) {
		for _, s := range []struct {
			name  string
			make  func(name, dir string) (image.Image, error)
			ask   string // a shell's command that prints the answer
			wants string
		}{
			{"nginx", image.Nginx, "busybox wget -q -O - http://10.0.0.2/", "Welcome to nginx!"},
			{"redis", image.Redis, `printf 'SET key value\r\nGET key\r\nQUIT\r\n' | busybox nc -w 3 10.0.0.2 6379`, "+OK\r\n$5\r\nvalue\r\n+OK\r\n"},
			{"node", image.Node, "busybox wget -q -O - http://10.0.0.2/x", "node serves /x"},
		} {
			h.importOnce(t, debianImage(t, s.name, s.make))
			outside := h.serve(t, s.name)
			outside.expect(t, s.ask, s.wants)
			if code := h.remove(t, "c1"); code != 137 {
				t.Errorf("%s: status %d", s.name, code)
			}
		}
	})
}

// A file that is larger than the machine's memory comes through whole.
func TestNanosBigImage(t *testing.T) {
	onNewestNanos(t, "auto", func(t *testing.T, h *host) {
		const size = 1 << 30
		big := debianImage(t, "nginx", image.Nginx).With("usr/share/nginx/html/big", size)
		big.Name = imageName("big")
		h.importOnce(t, big)
		want := sha256.New()
		if _, err := io.CopyN(want, image.Noise(), size); err != nil {
			t.Fatal(err)
		}
		outside := h.serve(t, "big")
		outside.expect(t, "busybox wget -q -O - http://10.0.0.2/", "Welcome to nginx!")
		outside.expect(t, "busybox wget -q -O - http://10.0.0.2/big | sha256sum", hex.EncodeToString(want.Sum(nil)))
		h.remove(t, "c1")
		h.ok(t, "images", "delete", "--sync", big.Name)
	})
}

func imageName(short string) string { return "uni.local/" + short + ":latest" }

// debianImage is an image of Debian's packages, which are kept for later runs.
func debianImage(t *testing.T, name string, make func(name, dir string) (image.Image, error)) image.Image {
	t.Helper()
	dir := filepath.Join(world.cache, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	i, err := make(imageName(name), filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// importOnce imports an image and keeps no archive of it.
func (h *host) importOnce(t *testing.T, i image.Image) {
	t.Helper()
	file := filepath.Join(world.dir, "once.tar")
	if err := i.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	h.ok(t, "images", "import", file)
}

// serve starts an image in the background as 10.0.0.2, and returns the
// namespace from which that can be reached.
func (h *host) serve(t *testing.T, name string) (outside netns) {
	t.Helper()
	inside, outside := pod(t, "eth0")
	outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0`)
	inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1`)
	h.detach(t, container{image: imageName(name), flags: join(inside)})
	return outside
}

// expect runs a script in the namespace until it prints what is wanted.
func (n netns) expect(t *testing.T, script, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s prints %q", script, want), func() bool {
		out, err := exec.CommandContext(t.Context(), "nsenter", "--net="+string(n), "sh", "-c", script).Output()
		return err == nil && strings.Contains(string(out), want)
	})
}
