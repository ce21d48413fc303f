package builder

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		{"linux", rawDisk(filepath.Join(t.TempDir(), "absent")), "x", ""},
	} {
		got := s.Advise(tt.guest, tt.disk, []string{"/bin/" + tt.arg}, nil, "/")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s of %s: %q, want %q", tt.arg, tt.guest, got, tt.want)
		}
	}
}

// A program is missing only where that is certain.
func TestMissing(t *testing.T) {
	s, base, _ := bootStore(t)
	files := t.TempDir()
	writeFile(t, filepath.Join(files, "usr/bin/x"), []byte(elfProgram))
	for _, err := range []error{
		os.Chmod(filepath.Join(files, "usr/bin/x"), 0o755),
		os.Symlink("usr/bin", filepath.Join(files, "bin")),
		os.Symlink("/usr/../bin/x", filepath.Join(files, "x")),
		os.Symlink("gone", filepath.Join(files, "dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	disk := rawDisk(filepath.Join(filepath.Dir(base), "root"))
	if err := s.Root(t.Context(), rootAt(files), disk.Path); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		program, path, cwd string
		want               bool
	}{
		{"x", "", "/", false}, // a link
		{"x", "", "/sbin", true},
		{"x", "", "/bin", false},
		{"x", "/sbin:/bin", "/", false},
		{"x", "/sbin", "/", true},
		{"y", "", "/", true},
		{"/x", "", "/", false},
		{"./x", "", "/bin", false},
		{"./x", "", "/usr", true},
		{"/x/y", "", "/", true},
		{"/dangling", "", "/", true},
	} {
		env := []string{}
		if tt.path != "" {
			env = append(env, "PATH="+tt.path)
		}
		if got := s.Missing(disk, []string{tt.program}, env, tt.cwd); got != tt.want {
			t.Errorf("%q with PATH %q in %s: missing is %v", tt.program, tt.path, tt.cwd, got)
		}
	}
	for _, d := range []unikernel.Disk{rawDisk(base), rawDisk(filepath.Join(t.TempDir(), "absent"))} {
		if s.Missing(d, []string{"y"}, nil, "/") {
			t.Errorf("missing on %s, which cannot be read", d.Path)
		}
	}
}
