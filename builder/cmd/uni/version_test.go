package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/config"
)

// recorded writes a record beside a host's guest, as deploy/record.sh does.
func recorded(t *testing.T, root string, c config.Config, version string) {
	t.Helper()
	sum := func(path string) string {
		data, err := os.ReadFile(root + path)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", sha256.Sum256(data))
	}
	write(t, filepath.Join(filepath.Dir(root+c.Linux.Kernel), "guest.json"), fmt.Sprintf(`{
  "kernel": {"file": "vmlinux", "sha256": %q, "config_sha256": "c0", "source": {"package": "linux-source-6.12", "version": %q, "sha256": "5a5a5a5a5a5a5a5a"}},
  "initrd": {"file": "initrd.img", "sha256": %q, "go": "go1.26"}, "version": "v1"}`, sum(c.Linux.Kernel), version, sum(c.Linux.Initrd)), 0o644)
}

func TestVersionJSON(t *testing.T) {
	h, c := goodHost(t)
	recorded(t, h.root, c, "6.12.1-1")
	file := write(t, filepath.Join(t.TempDir(), "c.toml"), fmt.Sprintf("[linux]\nkernel = %q\ninitrd = %q\n[storage]\ndata_dir = %q\n",
		h.root+c.Linux.Kernel, h.root+c.Linux.Initrd, t.TempDir()), 0o600)
	ask := func() (v versions) {
		t.Helper()
		out, _, err := uni(t, "version", "-o", "json", "--config", file)
		if err := errors.Join(err, json.Unmarshal([]byte(out), &v)); err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := ask()
	if v.Version != version || v.Go == "" || v.Linux == nil || v.Linux.Kernel.Source.Version != "6.12.1-1" || v.Linux.Initrd.Go != "go1.26" || v.LinuxProblem != "" || v.Nanos != nil {
		t.Errorf("%+v", v)
	}
	write(t, h.root+c.Linux.Initrd, "another", 0o644)
	if v = ask(); !strings.Contains(v.LinuxProblem, "initrd.img") {
		t.Errorf("an exchanged initrd: %+v", v)
	}
}

func TestCheckSource(t *testing.T) {
	// has is a distribution with a version of the package, older says what dpkg does.
	has := func(candidate string, older bool) func(*host) {
		return func(h *host) {
			write(t, h.root+"/usr/bin/dpkg", "", 0o755)
			write(t, h.root+"/usr/bin/apt-cache", "", 0o755)
			h.output = func(_ context.Context, program string, args ...string) (string, error) {
				switch {
				case filepath.Base(program) == "apt-cache" && strings.Join(args, " ") == "policy linux-source-6.12":
					return "linux-source-6.12:\n  Installed: x\n  Candidate: " + candidate + "\n", nil
				case strings.Join(args, " ") == "--compare-versions 6.12.1-1 lt "+candidate && older:
					return "", nil
				}
				return "", errors.New("status 1")
			}
		}
	}
	for _, tt := range []struct {
		name, version string
		change        func(*host)
		level, want   string
	}{
		{"as new", "6.12.1-1", has("6.12.1-1", false), levelOK, "as new as"},
		{"older", "6.12.1-1", has("6.12.9-1", true), levelWarn, "the distribution has 6.12.9-1"},
		{"no such package", "6.12.1-1", has("(none)", true), levelOK, "apt-get update"},
		{"not Debian", "6.12.1-1", func(*host) {}, levelOK, "without dpkg"},
		{"a tree of one's own", "unknown", has("6.12.9-1", true), levelOK, "5a5a5a5a5a5a"},
		{"another kernel", "6.12.1-1", func(h *host) { write(t, h.root+config.Default().Linux.Initrd, "y", 0o644) }, levelWarn, "not the one that was installed"},
		{"a damaged record", "6.12.1-1", func(h *host) {
			write(t, filepath.Join(filepath.Dir(h.root+config.Default().Linux.Kernel), "guest.json"), "{", 0o644)
		}, levelWarn, "guest.json"},
		{"no record", "6.12.1-1", func(h *host) {
			if err := os.Remove(filepath.Join(filepath.Dir(h.root+config.Default().Linux.Kernel), "guest.json")); err != nil {
				t.Fatal(err)
			}
		}, levelOK, "nothing is recorded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, c := goodHost(t)
			recorded(t, h.root, c, tt.version)
			tt.change(&h)
			if f := checkSource(t.Context(), h, c); f.Level != tt.level || !strings.Contains(f.Detail+f.Action, tt.want) {
				t.Errorf("%+v", f)
			}
		})
	}
}
