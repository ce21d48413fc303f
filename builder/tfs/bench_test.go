package tfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// cpuTime reports the processor time of each turn, which other programs on the
// machine change less than the time it takes.
func cpuTime(b *testing.B, loop func()) {
	used := func() time.Duration {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.ResetTimer()
	begin := used()
	loop()
	b.ReportMetric(float64((used()-begin).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
}

func BenchmarkWrite(b *testing.B) {
	dir, out := bigTree(b), filepath.Join(b.TempDir(), "disk")
	cpuTime(b, func() { benchmarkWrite(b, dir, out) })
}

func benchmarkWrite(b *testing.B, dir, out string) {
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
	cpuTime(b, func() { benchmarkAppend(b, f, st.Size()) })
}

func benchmarkAppend(b *testing.B, f *os.File, size int64) {
	for b.Loop() {
		m, err := Open(f, size)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Append(Config{Settings: Settings{{"program", "/x"}}, Files: []NewFile{{Path: "/etc/hosts", Data: []byte("x")}}}); err != nil {
			b.Fatal(err)
		}
	}
}
