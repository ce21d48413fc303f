package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestBuildIsDeterministic(t *testing.T) {
	dir := t.TempDir()
	init := filepath.Join(dir, "program")
	if err := os.WriteFile(init, []byte("\x7fELF!"), 0o700); err != nil {
		t.Fatal(err)
	}
	var images [2][]byte
	for i := range images {
		out := filepath.Join(dir, "out")
		if err := build(out, init); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		images[i] = b
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds of the same input differ")
	}
	if len(images[0])%4 != 0 {
		t.Errorf("archive of %d bytes is not padded to 4", len(images[0]))
	}
}

// TestCpioReadsIt has another program read the archive.
func TestCpioReadsIt(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	var archive bytes.Buffer
	if err := write(&archive, []byte("12345")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), cpio, "-itv", "--quiet")
	cmd.Stdin = &archive
	list, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v\n%s", err, list)
	}
	for _, e := range entries(nil) {
		if !strings.Contains(string(list), " "+e.name+"\n") {
			t.Errorf("cpio does not list %s:\n%s", e.name, list)
		}
	}
	if !strings.Contains(string(list), "crw-------") || !strings.Contains(string(list), "5,   1") {
		t.Errorf("no console device 5,1:\n%s", list)
	}
}

func TestMissingProgram(t *testing.T) {
	dir := t.TempDir()
	if err := build(filepath.Join(dir, "out"), filepath.Join(dir, "absent")); err == nil {
		t.Error("no error for a missing program")
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
