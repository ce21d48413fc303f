package tfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// bigTree makes 4,286 files of 133 MB, the size of an image with an interpreter
// and its libraries.
func bigTree(b *testing.B) string {
	dir := b.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	const files, total = 4286, 133 << 20
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i/50))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		size := total / files * 2 * i / files
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), data[:min(size, len(data))], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func BenchmarkWrite(b *testing.B) {
	dir, out := bigTree(b), filepath.Join(b.TempDir(), "disk")
	for b.Loop() {
		f, err := os.Create(out)
		if err != nil {
			b.Fatal(err)
		}
		if err := testDisk.WriteDir(b.Context(), f, dir); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkAppend(b *testing.B) {
	f := writeDisk(b, bigTree(b))
	st, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		m, err := Open(f, st.Size())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Append(Config{Settings: Settings{{"program", "/x"}}, Files: []NewFile{{Path: "/etc/hosts", Data: []byte("x")}}}); err != nil {
			b.Fatal(err)
		}
	}
}
