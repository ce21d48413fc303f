package builder

import (
	"path/filepath"
	"strings"
	"testing"

	"debug/elf"

	"containerd-shim-uni/unikernel"
)

// What is said of a program that failed, from either guest's disk.
func TestAdvise(t *testing.T) {
	s, base, _ := bootStore(t)
	dir := filepath.Dir(base)
	files := t.TempDir()
	for name, data := range map[string]string{"bin/x": elfProgram, "bin/arm": elfHeader(elf.EM_AARCH64), "bin/sh": elfProgram} {
		writeFile(t, filepath.Join(files, name), []byte(data))
	}
	root := rootAt(files)
	if err := s.Root(t.Context(), root, filepath.Join(dir, "root")); err != nil {
		t.Fatal(err)
	}
	linux, nanos := rawDisk(filepath.Join(dir, "root")), rawDisk(base)
	for _, tt := range []struct {
		guest string
		disk  unikernel.Disk
		arg   string
		want  string // part of it; empty for nothing to say
	}{
		{"linux", linux, "x", "chmod +x"},
		{"linux", linux, "no", "add the file"},
		{"nanos", nanos, "x", ""},
		{"nanos", nanos, "arm", "linux/amd64"},
		{"nanos", nanos, "sh", "is a shell"},
		{"linux", nanos, "x", ""}, // another file system
		{"linux", rawDisk("/nonexistent"), "x", ""},
	} {
		got := s.Advise(t.Context(), tt.guest, tt.disk, []string{"/bin/" + tt.arg}, nil, "/")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s of %s: %q, want %q", tt.arg, tt.guest, got, tt.want)
		}
	}
}
