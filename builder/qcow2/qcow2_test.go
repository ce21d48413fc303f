package qcow2

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, o Overlay) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "o.qcow2")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := o.Write(f); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWriteLayout(t *testing.T) {
	tests := []struct {
		name     string
		size     int64
		l1       uint32
		clusters int
	}{
		{"one sector", 512, 1, 4},
		{"one L1 entry", 512 << 20, 1, 4},
		{"two L1 entries", 512<<20 + 512, 2, 4},
		{"10 GiB", 10 << 30, 20, 4},
		{"one L1 cluster", 4 << 40, 8192, 4},
		{"two L1 clusters", 4<<40 + 512, 8193, 5},
		{"largest", MaxSize, 32768, 7},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data, err := os.ReadFile(write(t, Overlay{tt.size, "template.ext4", "raw"}))
			if err != nil {
				t.Fatal(err)
			}
			if len(data) != tt.clusters*clusterSize {
				t.Fatalf("file has %d bytes, want %d clusters", len(data), tt.clusters)
			}
			be := binary.BigEndian
			if got := be.Uint32(data[36:]); got != tt.l1 {
				t.Errorf("%d L1 entries, want %d", got, tt.l1)
			}
			if got := be.Uint64(data[24:]); got != uint64(tt.size) {
				t.Errorf("size %d, want %d", got, tt.size)
			}
			name := data[be.Uint64(data[8:]):][:be.Uint32(data[16:])]
			if string(name) != "template.ext4" {
				t.Errorf("backing file %q", name)
			}
			for i := range tt.clusters + 1 {
				want := uint16(1)
				if i == tt.clusters {
					want = 0
				}
				if got := be.Uint16(data[blockCluster*clusterSize+2*i:]); got != want {
					t.Errorf("cluster %d has refcount %d, want %d", i, got, want)
				}
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, o := range []Overlay{
		{0, "b", "raw"}, {-512, "b", "raw"}, {513, "b", "raw"}, {MaxSize + 512, "b", "raw"},
		{512, "", "raw"}, {512, strings.Repeat("b", 1024), "raw"}, {512, "b", "vmdk"}, {512, "b", ""},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "o"))
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Write(f); err == nil {
			t.Errorf("%+v was written", o)
		}
		if st, err := f.Stat(); err != nil || st.Size() != 0 {
			t.Errorf("%+v left %d bytes, %v", o, st.Size(), err)
		}
		f.Close()
	}
}

// QEMU itself is the judge of what is written, where it is installed.
func TestQemuImg(t *testing.T) {
	qemuImg, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	for _, size := range []int64{512, 10 << 30, 4<<40 + 512, MaxSize} {
		for _, backing := range []string{"b", "template.ext4", strings.Repeat("n", 255)} {
			path := write(t, Overlay{size, backing, "raw"})
			base, err := os.Create(filepath.Join(filepath.Dir(path), backing))
			if err != nil {
				t.Fatal(err)
			}
			base.Close()
			if out, err := exec.CommandContext(t.Context(), qemuImg, "check", path).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors") {
				t.Errorf("check: %v\n%s", err, out)
			}
			out, err := exec.CommandContext(t.Context(), qemuImg, "info", "--output=json", path).Output()
			if err != nil {
				t.Fatal(err)
			}
			var info struct {
				Size          int64  `json:"virtual-size"`
				Format        string `json:"format"`
				Backing       string `json:"backing-filename"`
				BackingFormat string `json:"backing-filename-format"`
			}
			if err := json.Unmarshal(out, &info); err != nil {
				t.Fatal(err)
			}
			if info.Size != size || info.Format != "qcow2" || info.Backing != backing || info.BackingFormat != "raw" {
				t.Errorf("info: %+v", info)
			}
		}
	}
}
