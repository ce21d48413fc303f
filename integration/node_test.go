package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/integration/peer"
)

// TestNodeInstall: what "uni node install" makes of a node's files, of those of the
// image, is a containerd that runs pods, and goes on with them through an upgrade; what
// "uninstall" leaves runs none.
func TestNodeInstall(t *testing.T) {
	uniOnly(t)
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			source, root := t.TempDir(), t.TempDir()
			lay(t, source, map[string]string{
				"bin/uni": "bin/uni", "bin/uni-shim": "bin/uni-shim", "bin/" + shim: "bin/" + shim,
				"lib/uni/linux/vmlinux": "guest/vmlinux", "lib/uni/linux/initrd.img": "guest/initrd.img",
			})
			// QEMU, as a user of its own, reads the guest.
			for dir := root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			uni := func(args ...string) string {
				t.Helper()
				all := append([]string{"node", "--root", root, "--source", source, "--restart=false"}, args...)
				out, err := exec.Command(filepath.Join(world.out, "bin/uni"), all...).CombinedOutput()
				if err != nil {
					t.Fatalf("uni %s: %v: %s", strings.Join(all, " "), err, out)
				}
				return string(out)
			}
			// A containerd that does not know the runtime, and a shim that is the node's.
			n := newNode(t, v, func(o *peer.Options) {
				o.Path, o.CRI.Deploy = []string{filepath.Join(root, "usr/local/bin")}, t.TempDir()
				lay(t, o.CRI.Deploy, map[string]string{"containerd/uni-v2.toml": "", "containerd/uni-v3.toml": ""})
			})
			program, err := filepath.EvalSymlinks(filepath.Join(n.Programs, v, "containerd"))
			if err != nil {
				t.Fatal(err)
			}
			lay(t, root, map[string]string{"usr/bin/containerd": program, "etc/containerd/config.toml": filepath.Join(n.Dir, "config.toml")})
			exchange := func() {
				t.Helper()
				lay(t, n.Dir, map[string]string{"config.toml": filepath.Join(root, "etc/containerd/config.toml")})
				if err := n.Restart(t.Context(), syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if said := uni("install", "--check=false"); !strings.Contains(said, "restart containerd") {
				t.Errorf("install said %q", said)
			}
			if said := uni("install", "--check=false"); said != "nothing to do\n" {
				t.Errorf("a second time: %q", said)
			}
			exchange()
			guest := filepath.Join(root, "usr/local/lib/uni/linux")
			n.with(t, settings{"pod.vcpus": "1", "linux.kernel": `"` + guest + `/vmlinux"`, "linux.initrd": `"` + guest + `/initrd.img"`})
			p := n.runPod(t, nil)
			id := p.run(t, nil, "sleep 1000")

			// An upgrade: programs that differ in what nobody reads.
			for _, f := range []string{"bin/" + shim, "bin/uni-shim", "bin/uni"} {
				file, err := os.OpenFile(filepath.Join(source, f), os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					t.Fatal(err)
				}
				_, err = file.WriteString("\n")
				if file.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if said := uni("install", "--check=false"); said != "installed /usr/local/bin/uni\ninstalled /usr/local/bin/uni-shim\ninstalled /usr/local/bin/"+shim+"\n" {
				t.Errorf("upgrade: %q", said)
			}
			uni("status")
			if got := strings.TrimSpace(n.do(t, "exec", "-s", id, "echo", "goes on")); got != "goes on" {
				t.Errorf("after the upgrade: %q", got)
			}
			if s := n.exited(t, p.run(t, nil, "exit 3")); s.ExitCode != 3 {
				t.Errorf("a container of the pod after the upgrade: %+v", s)
			}
			n.removeAll(t)
			next := n.runPod(t, nil)
			if s := n.exited(t, next.run(t, nil, "exit 4")); s.ExitCode != 4 {
				t.Errorf("a pod after the upgrade: %+v", s)
			}
			n.removeAll(t)
			uni("uninstall", "--force") // others' pods may run on the host
			exchange()
			config, _ := n.podConfig(t, nil)
			if r := n.cri(t, "", "runp", "--runtime", handler(), config); r.Code == 0 || !strings.Contains(r.Stderr, "no runtime for") {
				t.Errorf("after it was uninstalled: %+v", r)
			}
			n.removeAll(t)
			if left, _ := filepath.Glob(filepath.Join(root, "usr/local/*/*uni*")); len(left) > 0 { // the pattern is well formed
				t.Errorf("left: %v", left)
			}
		})
	}
}

// lay copies files, of the checkout's out where their paths are relative, to names
// below a directory; without a path they are empty.
func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, from := range files {
		var text []byte
		if from != "" {
			if !filepath.IsAbs(from) {
				from = filepath.Join(world.out, from)
			}
			var err error
			if text, err = os.ReadFile(from); err != nil {
				t.Fatal(err)
			}
		}
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
