package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"containerd-shim-uni/builder"
	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"
)

// uni runs a command line and returns its output.
func uni(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	nothingOfTheHost(t)
	var out, errs bytes.Buffer
	err = run(t.Context(), args, &out, &errs)
	return out.String(), errs.String(), err
}

// nothingOfTheHost keeps the command from what is installed and configured here:
// the configuration, the kernels that it leads to, registries' credentials.
func nothingOfTheHost(t *testing.T) {
	t.Helper()
	if os.Getenv(config.EnvPath) == "" || os.Getenv(config.EnvPath) == noConfig {
		dir := t.TempDir()
		t.Setenv(config.EnvPath, write(t, filepath.Join(dir, "config.toml"),
			fmt.Sprintf("[storage]\ndata_dir = %q\nstate_dir = %q\n", dir+"/lib", dir+"/run"), 0o600))
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
}

// noConfig is what integration/run.sh names as configuration, so that a test that
// reads the default one fails.
const noConfig = "/dev/null/none"

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// dataConfig writes a configuration with a data directory of its own.
func dataConfig(t *testing.T) (file, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	return write(t, filepath.Join(t.TempDir(), "c.toml"), "[storage]\ndata_dir = '"+dir+"'\n", 0o600), dir
}

func TestVersion(t *testing.T) {
	out, _, err := uni(t, "version")
	if err != nil || out != "uni "+version+"\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestUnknownCommands(t *testing.T) {
	for _, args := range [][]string{{"nope"}, {"cache", "nope"}, {"config", "nope"}, {"version", "x"}, {"cache", "ls", "x"}, {"check", "-o", "yaml"}, {"cache", "prune", "--keep", "5GB"}} {
		if _, _, err := uni(t, args...); err == nil || errors.Is(err, errSilent) {
			t.Errorf("%q: error %v, want one with a text", args, err)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	good := write(t, filepath.Join(t.TempDir(), "good.toml"), "[machine]\nvcpus = 3\n", 0o600)
	bad := write(t, filepath.Join(t.TempDir(), "bad.toml"), "gest = 1\n[machine]\nvcpus = 0\n", 0o600)

	out, _, err := uni(t, "--config", good, "config", "show")
	if err != nil || !strings.Contains(out, "vcpus = 3") {
		t.Errorf("show: %q, %v", out, err)
	}
	if c, err := config.Parse("shown", []byte(out)); err != nil || c.Machine.VCPUs != 3 {
		t.Errorf("what show prints: %+v, %v", c, err)
	}
	for _, args := range [][]string{{"config", "check", good}, {"--config", good, "config", "check"}} {
		if out, _, err := uni(t, args...); err != nil || out != good+": ok\n" {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
	_, errs, err := uni(t, "config", "check", bad)
	lines := strings.Split(strings.TrimSpace(errs), "\n")
	if !errors.Is(err, errSilent) || len(lines) != 2 || !strings.HasPrefix(lines[0], bad+":1: unknown key gest") || !strings.HasPrefix(lines[1], bad+":3: machine.vcpus") {
		t.Errorf("check: %q, %v", errs, err)
	}
	if _, _, err := uni(t, "config", "check", bad+".missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("check of a missing file: %v", err)
	}
	if out, _, err := uni(t, "config", "default"); err != nil || out != config.DefaultFile() {
		t.Errorf("default: %q, %v", out, err)
	}
}

func TestCacheCommands(t *testing.T) {
	file, dir := dataConfig(t)
	s, err := builder.Open(dir, builder.Options{MaxSize: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	write(t, filepath.Join(tree, "f"), strings.Repeat("x", 1<<20), 0o600)
	for _, key := range []string{"idle", "busy"} {
		dst := filepath.Join(dir, "containers", key, "root.erofs")
		if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := s.Root(t.Context(), unikernel.Rootfs{Key: key, Open: func(context.Context) (string, func() error, error) {
			return tree, func() error { return nil }, nil
		}}, dst); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "containers", "idle")); err != nil {
		t.Fatal(err)
	}

	out, _, err := uni(t, "--config", file, "cache", "ls", "-o", "json")
	var rows []cacheRow
	if err := errors.Join(err, json.Unmarshal([]byte(out), &rows)); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Users != 1 || rows[1].Users != 0 || rows[0].Kind != "root" || rows[0].Allocated < 1<<20 {
		t.Errorf("ls: %+v", rows)
	}
	out, _, err = uni(t, "--config", file, "cache", "ls")
	if lines := strings.Split(out, "\n"); err != nil || len(lines) != 4 || !strings.HasPrefix(lines[0], "KIND") || !strings.Contains(lines[1], rows[0].Digest[:12]) {
		t.Errorf("ls: %q, %v", out, err)
	}
	out, _, err = uni(t, "--config", file, "cache", "du")
	if err != nil || !strings.Contains(out, "2.0MiB of 20.0GiB in 2 files; 1.0MiB of it in use") {
		t.Errorf("du: %q, %v", out, err)
	}
	for _, step := range [][2]string{{"1GiB", "removed 0 files, 0B\n"}, {"0B", "removed 1 files, 1.0MiB\n"}, {"0B", "removed 0 files, 0B\n"}} {
		if out, _, err := uni(t, "--config", file, "cache", "prune", "--keep", step[0]); err != nil || out != step[1] {
			t.Errorf("prune --keep %s: %q, %v", step[0], out, err)
		}
	}
	if entries, err := s.Entries(); err != nil || len(entries) != 1 || entries[0].Users != 1 {
		t.Errorf("prune left %+v, %v", entries, err)
	}
}

func TestCheckPrintsEachFinding(t *testing.T) {
	findings := []finding{{"a", levelOK, "fine", ""}, {"longer", levelFail, "broken", "mend it"}}
	var out bytes.Buffer
	if err := printFindings(&out, "text", findings); err != nil {
		t.Fatal(err)
	}
	if want := "OK    a       fine\nFAIL  longer  broken → mend it\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	out.Reset()
	var again []finding
	if err := errors.Join(printFindings(&out, "json", findings), json.Unmarshal(out.Bytes(), &again)); err != nil || !reflect.DeepEqual(again, findings) {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestHuman(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1.0KiB", 1536 << 20: "1.5GiB", 1 << 53: "8192.0TiB"} {
		if got := human(n); got != want {
			t.Errorf("human(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestOutput(t *testing.T) {
	if text, err := output(t.Context(), "/bin/sh", "-c", "echo a; echo b"); err != nil || firstLine(text) != "a" || text != "a\nb\n" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := output(t.Context(), "/bin/sh", "-c", "echo why >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := output(ctx, "/bin/sh", "-c", "exit 0"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
