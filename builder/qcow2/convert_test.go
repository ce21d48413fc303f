package qcow2

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// disk is a mostly empty disk of size bytes with data at some offsets.
func disk(t testing.TB, size int64, at ...int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, off := range at {
		b := make([]byte, min(100, size-off))
		for i := range b {
			b[i] = byte(rnd.Uint32() | 1)
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func convert(t testing.TB, from *os.File, size int64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Convert(t.Context(), f, from, size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

var diskTests = []struct {
	name string
	size int64
	at   []int64
}{
	{"empty", 1 << 20, nil},
	{"one sector", 512, []int64{0}},
	{"last sector", 3<<20 + 512, []int64{3 << 20}},
	{"two L2 tables", 513 << 20, []int64{0, 512 << 20, 513<<20 - 1}},
	{"neighbours", 1 << 20, []int64{65530, 131072, 196608}},
	{"many", 10 << 20, func() (at []int64) {
		for i := range int64(150) {
			at = append(at, i*clusterSize)
		}
		return at
	}()},
}

func TestConvertReadsBack(t *testing.T) {
	for _, tt := range diskTests {
		t.Run(tt.name, func(t *testing.T) {
			from := disk(t, tt.size, tt.at...)
			f, err := os.Open(convert(t, from, tt.size))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			x, err := Open(f, st.Size())
			if err != nil || x.Size() != tt.size || !IsImage(f) {
				t.Fatalf("size %d, %v", x.Size(), err)
			}
			for _, at := range append(tt.at, 0, tt.size/2) {
				n := min(clusterSize+9, tt.size-at)
				want, got := make([]byte, n), make([]byte, n)
				if _, err := from.ReadAt(want, at); err != nil {
					t.Fatal(err)
				}
				if _, err := x.ReadAt(got, at); err != nil || !bytes.Equal(want, got) {
					t.Errorf("at %d: %v, equal %v", at, err, bytes.Equal(want, got))
				}
			}
			if n, err := x.ReadAt(make([]byte, 10), tt.size-1); n != 1 || !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %d, %v", n, err)
			}
		})
	}
}

func TestConvertRefuses(t *testing.T) {
	for _, size := range []int64{0, -512, 513, MaxSize + 512} {
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := Convert(t.Context(), f, bytes.NewReader(nil), size); err == nil {
			t.Errorf("a disk of %d bytes was converted", size)
		}
	}
}

// QEMU itself is the judge, where it is installed.
func TestConvertQemuImg(t *testing.T) {
	qemuImg, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	for _, tt := range diskTests {
		from := disk(t, tt.size, tt.at...)
		path := convert(t, from, tt.size)
		out, err := exec.CommandContext(t.Context(), qemuImg, "check", path).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No errors") {
			t.Errorf("%s: check: %v\n%s", tt.name, err, out)
		}
		out, err = exec.CommandContext(t.Context(), qemuImg, "compare", "-f", "raw", "-F", "qcow2", from.Name(), path).CombinedOutput()
		if err != nil {
			t.Errorf("%s: compare: %v\n%s", tt.name, err, out)
		}
	}
}

// What qemu-img makes is read too.
func TestReaderQemuImg(t *testing.T) {
	qemuImg, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	from := disk(t, 4<<20, 0, 1<<20)
	path := filepath.Join(t.TempDir(), "x")
	if out, err := exec.CommandContext(t.Context(), qemuImg, "convert", "-O", "qcow2", from.Name(), path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	x, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	want, got := make([]byte, 4<<20), make([]byte, 4<<20)
	if _, err := from.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ReadAt(got, 0); err != nil || !bytes.Equal(want, got) {
		t.Errorf("contents differ, %v", err)
	}
	if _, err := Open(bytes.NewReader(data[:100]), 100); !errors.Is(err, ErrFormat) {
		t.Errorf("a piece: %v", err)
	}
	if data, err := os.ReadFile(write(t, Overlay{1 << 20, "b", "raw"})); err != nil {
		t.Error(err)
	} else if _, err := Open(bytes.NewReader(data), int64(len(data))); !errors.Is(err, ErrFormat) {
		t.Errorf("an overlay: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	data, err := os.ReadFile(convert(f, disk(f, 1<<20, 0, 70000), 1<<20))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := Open(bytes.NewReader(data), int64(len(data)))
		if err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(io.NewSectionReader(x, 0, x.Size()), 1<<20))
		}
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("error %v is no ErrFormat", err)
		}
	})
}
