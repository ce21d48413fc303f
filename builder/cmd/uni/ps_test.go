package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/shim/status"
)

// told is a shim that tells of a machine.
type told struct{ machine status.Machine }

func (t told) Status() status.Machine { return t.machine }
func (t told) Tail(n int) []string    { return []string{"first", "last"}[max(0, 2-n):] }

// hostWith returns the configuration of a host with a container "web" that runs, one
// "done" that ended, a pod, and a sandbox whose shim is gone.
func hostWith(t *testing.T) (configPath string) {
	t.Helper()
	at := time.Now().Add(-90 * time.Second)
	pod := strings.Repeat("p0d", 21) + "0"
	machines := map[string]status.Machine{
		"1": {Namespace: "default", ID: "web", Kind: status.KindContainer, State: "up", Guest: "linux", MemoryMiB: 256, Resident: 200 << 20,
			Containers: []status.Container{{ID: "web", State: "running", Created: at, Started: at.Add(850 * time.Millisecond), Written: 3 << 20,
				Used: &status.Used{CPU: 1_500_000, Memory: 12 << 20, Pids: 7}}}},
		"2": {Namespace: "default", ID: "done", Kind: status.KindContainer, State: "ended", Guest: "linux", End: "guest shut down",
			Containers: []status.Container{{ID: "done", State: "stopped", Created: at, Exit: &status.Exit{Status: 7}}}},
		"3": {Namespace: "k8s.io", ID: pod, Kind: status.KindPod, State: "up", Guest: "linux", MemoryMiB: 2048,
			Containers: []status.Container{{ID: "c1", State: "running", Created: at}, {ID: "c2", State: "paused", Created: at}}},
	}
	dir, err := os.MkdirTemp("", "u") // the path of a state directory is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, m := range machines {
		d := filepath.Join(dir, name)
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		server, err := status.Serve(filepath.Join(d, status.Socket), told{m})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
	}
	gone := filepath.Join(dir, "gone")
	if err := os.MkdirAll(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(gone, status.Socket), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	configPath = filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(configPath, []byte("[storage]\nstate_dir = '"+dir+"'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return configPath
}

// ps runs a command line that must not fail.
func ps(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, err := uni(t, args...)
	if err != nil || errs != "" {
		t.Errorf("%q: %v, %s", args, err, errs)
	}
	return out
}

func TestPs(t *testing.T) {
	config := hostWith(t)
	out := ps(t, "--config", config, "ps")
	for _, want := range []string{
		"default    web        -             linux  running  1m30s  12.0MiB  256.0MiB  200.0MiB  1.5s  7     3.0MiB   850ms",
		"k8s.io     c1         p0dp0dp0dp0d  linux  running",
		"k8s.io     c2         p0dp0dp0dp0d  linux  paused",
		"its shim is gone",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "done") {
		t.Errorf("one that ended is listed:\n%s", out)
	}
	if out := ps(t, "--config", config, "ps", "-a", "do"); !strings.Contains(out, "stopped (7)") || strings.Contains(out, "web") {
		t.Errorf("ps -a do:\n%s", out)
	}
	if out := ps(t, "--config", config, "ps", "-n", "k8s.io", "p0d"); strings.Count(out, "\n") != 3 {
		t.Errorf("a pod:\n%s", out)
	}
	for _, args := range [][]string{{"ps", "-o", "json", "web"}, {"inspect", "web"}} {
		var rows []status.Machine
		if err := json.Unmarshal([]byte(ps(t, append([]string{"--config", config}, args...)...)), &rows); err != nil || len(rows) != 1 || rows[0].Containers[0].Used.Pids != 7 {
			t.Errorf("%q: %v, %+v", args, err, rows)
		}
	}
	if out := ps(t, "--config", config, "logs", "--console", "--lines", "1", "web"); out != "last\n" {
		t.Errorf("console: %q", out)
	}
}

func TestPsErrors(t *testing.T) {
	config := hostWith(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"ps", "nobody"}, `begins with "nobody"`},
		{[]string{"ps", "-o", "yaml"}, "text, json"},
		{[]string{"ps", "--watch=-1s"}, "positive"},
		{[]string{"logs", "web"}, "nerdctl logs"},
		{[]string{"logs", "--console", "nobody"}, `begins with "nobody"`},
	} {
		_, _, err := uni(t, append([]string{"--config", config}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
	}
}
