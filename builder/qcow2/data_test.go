package qcow2

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const testSize = 3 << 30 // six L2 tables

var testChunks = []Chunk{
	{100, []byte("first")},
	{1<<20 - 4096, bytes.Repeat([]byte("k"), 4096)},
	{600<<20 + 60000, bytes.Repeat([]byte("across"), 30000)},
	{testSize - 7, []byte("the end")},
}

func writeData(t *testing.T, o Overlay, chunks []Chunk) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "o.qcow2")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return path, o.WriteData(f, chunks)
}

func TestReadCluster(t *testing.T) {
	path, err := writeData(t, Overlay{testSize, "b", "raw"}, testChunks)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range testChunks {
		n := min(len(c.Data), int(clusterSize-c.Offset%clusterSize))
		got := make([]byte, n)
		if err := ReadCluster(f, got, c.Offset); err != nil || !bytes.Equal(got, c.Data[:n]) {
			t.Errorf("at %d: %v, the same: %t", c.Offset, err, bytes.Equal(got, c.Data[:n]))
		}
	}
	b := make([]byte, 100)
	if err := ReadCluster(f, b, 0); err != nil || !bytes.Equal(b, make([]byte, 100)) {
		t.Errorf("before the first chunk: %v, %q", err, b)
	}
	for _, at := range []int64{clusterSize, 1 << 30} {
		if err := ReadCluster(f, b, at); !errors.Is(err, ErrAbsent) {
			t.Errorf("at %d: %v, want ErrAbsent", at, err)
		}
	}
	if err := ReadCluster(f, b, testSize+1<<30); !errors.Is(err, ErrFormat) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := ReadCluster(f, b, clusterSize-1); err == nil {
		t.Error("a read across clusters succeeded")
	}
}

func TestWriteDataRefuses(t *testing.T) {
	o := Overlay{testSize, "b", "raw"}
	for name, chunks := range map[string][]Chunk{
		"beyond":         {{testSize - 2, []byte("abc")}},
		"negative":       {{-1, []byte("abc")}},
		"nothing":        {{0, nil}},
		"shared cluster": {{0, []byte("a")}, {100, []byte("b")}},
		"too much":       {{0, make([]byte, 2<<30)}},
	} {
		if _, err := writeData(t, o, chunks); err == nil {
			t.Errorf("%s: it was written", name)
		}
	}
}

// QEMU itself is the judge of what is written, where it is installed.
func TestQemuReadsData(t *testing.T) {
	qemuImg, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	path, err := writeData(t, Overlay{testSize, "b", "raw"}, testChunks)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(filepath.Dir(path), "b")
	if err := os.WriteFile(base, bytes.Repeat([]byte("B"), 3*clusterSize), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), qemuImg, "check", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors") {
		t.Errorf("check: %v\n%s", err, out)
	}
	raw := filepath.Join(filepath.Dir(path), "raw")
	if out, err := exec.CommandContext(t.Context(), qemuImg, "convert", "-O", "raw", path, raw).CombinedOutput(); err != nil {
		t.Fatalf("convert: %v\n%s", err, out)
	}
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := append([]Chunk{{clusterSize, bytes.Repeat([]byte("B"), 2*clusterSize)}, {105, make([]byte, 1000)}}, testChunks...)
	for _, c := range want {
		got := make([]byte, len(c.Data))
		if _, err := f.ReadAt(got, c.Offset); err != nil || !bytes.Equal(got, c.Data) {
			t.Errorf("QEMU reads something else at %d: %v", c.Offset, err)
		}
	}
}

func FuzzReadCluster(f *testing.F) {
	f.Add(uint32(40), []byte{0, 1}, int64(1<<20))
	f.Add(uint32(l1Cluster*clusterSize), []byte{0xff, 0xff}, int64(5))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, offset int64) {
		image := make([]byte, 6*clusterSize)
		copy(image, Overlay{1 << 29, "b", "raw"}.header())
		image[l1Cluster*clusterSize+5] = 4
		image[4*clusterSize+5] = 5
		if int(at) < len(image) {
			copy(image[at:], patch)
		}
		b := make([]byte, 512)
		_ = ReadCluster(bytes.NewReader(image), b, offset)
	})
}
