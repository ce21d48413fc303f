package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// tree is a host's, and a source of version one of everything.
func tree(t *testing.T, texts map[string]string) Node {
	t.Helper()
	top := t.TempDir()
	n := Node{Root: filepath.Join(top, "host"), Source: filepath.Join(top, "source"), Prefix: "/usr/local", Proc: filepath.Join(top, "proc")}
	for path, text := range texts {
		write(t, n.Root+path, text)
	}
	n.release(t, "one")
	return n
}

// release makes another version the source.
func (n Node) release(t *testing.T, version string) {
	t.Helper()
	for _, f := range files {
		write(t, filepath.Join(n.Source, f.path), f.path+" "+version)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// all are the files of a tree with their modes and texts.
func (n Node) all(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(n.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, n.Root)] = fmt.Sprint(info.Mode().Perm(), " ", string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// containerdOf puts a program on the node that tells of being a containerd.
func (n Node) containerdOf(t *testing.T, generation int) {
	t.Helper()
	// Any Go program tells a package; the tests' own is read with the path replaced by
	// one as long.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	const ours = "path\tcontainerd-shim-uni/deploy/node.test\n"
	path := map[int]string{1: "path\tgithub.com/containerd/containerd/", 2: "path\tgithub.com/containerd/containerd/v2/"}[generation]
	if len(path) >= len(ours) || !strings.Contains(string(self), ours) {
		t.Fatalf("the test's program does not tell %q", ours)
	}
	path += strings.Repeat("x", len(ours)-len(path)-1) + "\n"
	write(t, n.Root+"/usr/bin/containerd", strings.ReplaceAll(string(self), ours, path))
}

const k3s = "/var/lib/rancher/k3s/agent/etc/containerd/"

// layouts are hosts before the runtime is there, and where containerd is then told of
// it.
var layouts = map[string]struct {
	generation int // 0: none of its own
	texts      map[string]string
	file       string // that has the handler
	plugin     string
}{
	"containerd 1.7":                    {1, map[string]string{mainFile: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"x\""}, mainFile, "io.containerd.grpc.v1.cri"},
	"containerd 1 without a file":       {1, nil, mainFile, "io.containerd.grpc.v1.cri"},
	"containerd 1 that imports":         {1, map[string]string{mainFile: "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"}, mainFile, "io.containerd.grpc.v1.cri"},
	"containerd 2":                      {2, map[string]string{mainFile: "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n"}, dropIn, "io.containerd.cri.v1.runtime"},
	"containerd 2 without a file":       {2, nil, dropIn, "io.containerd.cri.v1.runtime"},
	"containerd 2 that imports nothing": {2, map[string]string{mainFile: "version = 3\n"}, mainFile, "io.containerd.cri.v1.runtime"},
	"containerd 2 with an old file":     {2, map[string]string{mainFile: "version = 2\n"}, mainFile, "io.containerd.grpc.v1.cri"},
	"k3s with containerd 1.7":           {0, map[string]string{k3s + "config.toml": "version = 2\n"}, k3s + "config.toml.tmpl", "io.containerd.grpc.v1.cri"},
	"k3s with containerd 2":             {0, map[string]string{k3s + "config.toml": "version = 3\n"}, k3s + "config-v3.toml.tmpl", "io.containerd.cri.v1.runtime"},
	"k3s with a template": {0, map[string]string{k3s + "config.toml": "version = 3\n", k3s + "config-v3.toml.tmpl": base + "[x]\ny = 1\n"},
		k3s + "config-v3.toml.tmpl", "io.containerd.cri.v1.runtime"},
	"k3s that imports": {0, map[string]string{k3s + "config.toml": "version = 3\nimports = [\"" + k3s + "config-v3.toml.d/*.toml\"]\n"},
		k3s + "config-v3.toml.d/uni.toml", "io.containerd.cri.v1.runtime"},
	"k3s beside a containerd": {2, map[string]string{k3s + "config.toml": "version = 3\n", mainFile: "version = 3\n"}, k3s + "config-v3.toml.tmpl", "io.containerd.cri.v1.runtime"},
	"rke2": {0, map[string]string{"/var/lib/rancher/rke2/agent/etc/containerd/config.toml": "version = 3\n"},
		"/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl", "io.containerd.cri.v1.runtime"},
}

// TestInstall: what is there is kept, a second time changes nothing, an upgrade changes
// the programs alone, and what is uninstalled is as it was.
func TestInstall(t *testing.T) {
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			n := tree(t, layout.texts)
			if layout.generation > 0 {
				n.containerdOf(t, layout.generation)
			}
			before := n.all(t)
			done, err := n.Install()
			if err != nil {
				t.Fatal(err)
			}
			if len(done.Restart) == 0 {
				t.Error("containerd is not to be restarted")
			}
			n.offers(t, layout.file, layout.plugin)
			for path, text := range before {
				// What was said before is still said, with its mode.
				if now := n.all(t)[path]; !strings.HasPrefix(now, text) {
					t.Errorf("%s: %q, before %q", path, now, text)
				}
			}
			installed := n.all(t)
			if got := installed["/usr/local/bin/"+Shim]; !strings.HasPrefix(got, "-rwxr-xr-x ") {
				t.Errorf("the shim: %.20q", got)
			}
			if again, err := n.Install(); err != nil || len(again.Files)+len(again.Restart) > 0 {
				t.Errorf("again: %+v, %v", again, err)
			}
			if missing, err := n.Missing(); err != nil || len(missing) > 0 {
				t.Errorf("missing: %v, %v", missing, err)
			}

			running, err := os.Open(n.Root + "/usr/local/bin/" + Shim)
			if err != nil {
				t.Fatal(err)
			}
			defer running.Close()
			n.release(t, "two")
			if done, err = n.Install(); err != nil || len(done.Files) != len(files) || len(done.Restart) > 0 {
				t.Errorf("upgrade: %+v, %v", done, err)
			}
			old := make([]byte, 100)
			if k, _ := running.Read(old); !strings.HasSuffix(string(old[:k]), " one") {
				t.Errorf("a program that runs is now %q", old[:k])
			}

			if done, err = n.Uninstall(false); err != nil || len(done.Restart) == 0 {
				t.Errorf("uninstall: %+v, %v", done, err)
			}
			after := n.all(t)
			delete(after, "/etc/uni/config.toml")
			if layout.texts[mainFile] == "" && layout.generation == 2 && after[mainFile] != "" && before[mainFile] == "" {
				delete(after, mainFile) // it says what is the default
			}
			for path := range after {
				if after[path] != before[path] && !(path == mainFile && after[path] == before[path]+"\n") {
					t.Errorf("after all %s is %.100q, before %.100q", path, after[path], before[path])
				}
			}
			if len(after) != len(before) {
				t.Errorf("after all there are %d files, before %d", len(after), len(before))
			}
			if done, err = n.Uninstall(false); err != nil || len(done.Files)+len(done.Restart) > 0 {
				t.Errorf("uninstall again: %+v, %v", done, err)
			}
		})
	}
}

// offers fails the test unless a file of containerd's configuration has the handler.
func (n Node) offers(t *testing.T, path, plugin string) {
	t.Helper()
	text, err := n.read(path)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Plugins map[string]struct {
			Containerd struct {
				Runtimes map[string]struct {
					Type        string   `toml:"runtime_type"`
					Annotations []string `toml:"pod_annotations"`
				}
			}
		}
	}
	if err := toml.Unmarshal([]byte(strings.Replace(text, base, "", 1)), &c); err != nil {
		t.Fatalf("%s: %v: %s", path, err, text)
	}
	uni := c.Plugins[plugin].Containerd.Runtimes["uni"]
	if uni.Type != "io.containerd.uni.v1" || len(uni.Annotations) != 1 {
		t.Errorf("%s: %+v: %s", path, uni, text)
	}
}

// TestInstallRefuses: what cannot be configured is not half installed.
func TestInstallRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		generation int
		text, says string
	}{
		"no containerd": {0, "", "no containerd"},
		"version 1":     {1, "[plugins.cri]\n", "version 1"},
		"disabled":      {2, "version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n", "disabled_plugins"},
		"no TOML":       {1, "version = \n", mainFile},
	} {
		t.Run(name, func(t *testing.T) {
			n := tree(t, map[string]string{mainFile: test.text})
			if test.generation > 0 {
				n.containerdOf(t, test.generation)
			}
			before := n.all(t)
			if _, err := n.Install(); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
			if after := n.all(t); len(after) != len(before) {
				t.Errorf("%d files, before %d", len(after), len(before))
			}
		})
	}
}

// TestKept: a handler and a configuration that are somebody else's stay.
func TestKept(t *testing.T) {
	const own = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.vm]\nruntime_type = \"io.containerd.uni.v1\"\n"
	n := tree(t, map[string]string{"/etc/containerd/real.toml": own, "/etc/uni/config.toml": "# mine\n"})
	n.containerdOf(t, 1)
	if err := os.Symlink("real.toml", n.Root+mainFile); err != nil {
		t.Fatal(err)
	}
	if done, err := n.Install(); err != nil || len(done.Restart) > 0 || len(done.Files) != len(files) {
		t.Errorf("%+v, %v", done, err)
	}
	if text, _ := n.read("/etc/uni/config.toml"); text != "# mine\n" {
		t.Errorf("the configuration is %q", text)
	}
	write(t, n.Root+"/etc/containerd/real.toml", "version = 2\n")
	if _, err := n.Install(); err != nil {
		t.Fatal(err)
	}
	n.offers(t, mainFile, "io.containerd.grpc.v1.cri")
	if to, err := os.Readlink(n.Root + mainFile); err != nil || to != "real.toml" {
		t.Errorf("the link is %q, %v", to, err)
	}
}

// TestUninstallWhilePodsRun: their shims would miss their program.
func TestUninstallWhilePodsRun(t *testing.T) {
	n := tree(t, nil)
	n.containerdOf(t, 2)
	if _, err := n.Install(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(n.Proc, "17/cmdline"), "/usr/local/bin/"+Shim+"\x00-namespace\x00k8s.io\x00")
	if done, err := n.Uninstall(false); err == nil || !strings.Contains(err.Error(), "[17]") || len(done.Files) > 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := n.Uninstall(true); err != nil {
		t.Error(err)
	}
}
