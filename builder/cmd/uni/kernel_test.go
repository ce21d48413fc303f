package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/builder/kernels"
	"containerd-shim-uni/builder/kernels/kerneltest"
	"containerd-shim-uni/unikernel"
)

func TestKernelCommands(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(t.TempDir(), "c.toml"), "storage.data_dir = '"+dir+"'\nlinux.kernel = '"+dir+"/absent'\n", 0o600)
	kernel := func(args ...string) (stdout, stderr string, err error) {
		t.Helper()
		return uni(t, append([]string{"--config", file, "kernel"}, args...)...)
	}
	must := func(want string, args ...string) {
		t.Helper()
		if out, _, err := kernel(args...); err != nil || !strings.Contains(out, want) {
			t.Fatalf("%q: %q, %v, want %q", args, out, err, want)
		}
	}
	old := kerneltest.Write(t, t.TempDir(), kerneltest.Release("old"))
	archive := filepath.Join(t.TempDir(), "nanos-release-linux-0.1.55.tar")
	write(t, archive, string(kerneltest.Tar(t, kerneltest.Release("new"))), 0o600)

	must("nothing is installed", "verify")
	must("containers boot it from now on", "install", "nanos", "--from", old, "--version", "old")
	must("nanos 0.1.55: 4 files", "install", "nanos", "--from", archive, "--keep-default")
	must("", "use", "0.1.55")
	must("0.1.55: ok\nold: ok\n", "verify")

	out, _, err := kernel("ls", "-o", "json")
	var rows []kernelRow
	if err := errors.Join(err, json.Unmarshal([]byte(out), &rows)); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Version != "0.1.55" || !rows[0].Default || rows[0].Source != archive || rows[0].Size == 0 ||
		rows[1].Default || rows[1].Installed == nil || rows[1].Path != filepath.Join(dir, "kernels/nanos/old") {
		t.Errorf("%+v", rows)
	}
	out, _, err = kernel("ls")
	if lines := strings.Split(out, "\n"); err != nil || len(lines) != 4 || !strings.Contains(lines[1], "*") || strings.Contains(lines[2], "*") {
		t.Errorf("%q, %v", out, err)
	}

	write(t, filepath.Join(dir, "kernels/nanos/old/klibs/tls"), "Library old", 0o644)
	out, _, err = kernel("verify")
	if !errors.Is(err, errSilent) || !strings.Contains(out, "old: klibs/tls has the SHA-256") || !strings.Contains(out, "0.1.55: ok") {
		t.Errorf("%q, %v", out, err)
	}
	must("0.1.55: ok", "verify", "0.1.55")
	if _, _, err := kernel("rm", "0.1.55"); !errors.Is(err, kernels.ErrDefault) {
		t.Errorf("rm of the default: %v", err)
	}
	must("", "rm", "old")
	must("", "rm", "0.1.55")
	if _, _, err := kernel("verify", "old"); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("verify of what is not there: %v", err)
	}
}

func TestKernelInstallOfficial(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	before := releases
	defer func() { releases = before }()
	releases = server.URL + "/"
	file, _ := dataConfig(t)
	if _, _, err := uni(t, "--config", file, "kernel", "install", "nanos"); !errors.Is(err, unikernel.ErrNotFound) || !strings.Contains(err.Error(), server.URL+"/latest.txt") {
		t.Errorf("%v", err)
	}
	for _, args := range [][]string{{}, {"linux"}, {"nanos", "x"}} {
		if _, _, err := uni(t, append([]string{"--config", file, "kernel", "install"}, args...)...); err == nil || !strings.Contains(err.Error(), `want "nanos"`) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// What the configuration names beside is listed too.
func TestKernelListOfOthers(t *testing.T) {
	mine := kerneltest.Write(t, t.TempDir(), kerneltest.Release(""))
	linux := write(t, filepath.Join(t.TempDir(), "vmlinux"), "...Linux version 6.12.117-uni (gcc)", 0o644)
	file := write(t, filepath.Join(t.TempDir(), "c.toml"),
		"storage.data_dir = '"+t.TempDir()+"'\nnanos.kernel = '"+mine+"'\nlinux.kernel = '"+linux+"'\n", 0o600)
	list := func() []kernelRow {
		t.Helper()
		var rows []kernelRow
		out, _, err := uni(t, "--config", file, "kernel", "ls", "-o", "json")
		if err := errors.Join(err, json.Unmarshal([]byte(out), &rows)); err != nil {
			t.Fatal(err)
		}
		return rows
	}
	rows := list()
	if len(rows) != 2 || !rows[0].Default || rows[0].Path != mine || rows[0].Error != "" || rows[1].Version != "6.12.117-uni" || rows[1].Guest != "linux" {
		t.Errorf("%+v", rows)
	}
	_, stderr, err := uni(t, "--config", file, "kernel", "install", "nanos", "--from", mine)
	if err != nil || !strings.Contains(stderr, "containers boot "+mine) {
		t.Errorf("%q, %v", stderr, err)
	}
	if rows = list(); len(rows) != 3 || rows[0].Default || !rows[1].Default {
		t.Errorf("%+v", rows)
	}
	if err := os.RemoveAll(mine); err != nil {
		t.Fatal(err)
	}
	if rows = list(); rows[1].Error == "" {
		t.Errorf("%+v", rows)
	}
}
