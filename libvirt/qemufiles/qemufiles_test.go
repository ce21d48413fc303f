package qemufiles

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes files below a directory; those whose text is "x" are programs.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		mode := os.FileMode(0o644)
		if text == "x" {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestQboot(t *testing.T) {
	tests := []struct {
		files map[string]string
		want  string
	}{
		{nil, ""},
		{map[string]string{"/usr/share/qemu/bios-microvm.bin": "r", "/usr/share/seabios/bios.bin": "r"}, ""},
		{map[string]string{"/usr/share/qemu/qboot.rom/x": "a directory"}, ""},
		{map[string]string{"/usr/local/share/qemu/qboot.rom": "r"}, "/usr/local/share/qemu/qboot.rom"},
		{map[string]string{"/usr/local/share/qemu/qboot.rom": "r", "/usr/share/qemu/qboot.rom": "r"}, "/usr/share/qemu/qboot.rom"},
	}
	for _, tt := range tests {
		if got := Qboot(tree(t, tt.files)); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.files, got, tt.want)
		}
	}
}

// The descriptions as Debian 12 and 13 have them.
const (
	inC    = `{"description": "QEMU virtiofsd vhost-user-fs", "type": "fs", "binary": "/usr/lib/qemu/virtiofsd"}`
	inRust = `{"description": "virtiofsd vhost-user-fs", "type": "fs", "binary": "/usr/libexec/virtiofsd",
		"features": ["migrate-precopy", "separate-options"]}`
	share = "/usr/share/qemu/vhost-user/"
)

func TestFindVirtiofsd(t *testing.T) {
	c, rust := "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"
	tests := []struct {
		name  string
		files map[string]string
		want  string // the binary, or a part of the error
		inC   bool
	}{
		{"none", nil, "no virtiofsd is described", false},
		{"in C", map[string]string{share + "50-qemu-virtiofsd.json": inC, c: "x"}, c, true},
		{"in Rust", map[string]string{share + "50-virtiofsd.json": inRust, rust: "x"}, rust, false},
		{"both: by name", map[string]string{share + "50-virtiofsd.json": inRust, share + "50-qemu-virtiofsd.json": inC, c: "x", rust: "x"}, c, true},
		{"no program", map[string]string{share + "50-virtiofsd.json": inRust}, share + `50-virtiofsd.json names "/usr/libexec/virtiofsd", which is not there`, false},
		{"not executable", map[string]string{share + "50-virtiofsd.json": inRust, rust: "y"}, "which is not there", false},
		{"no JSON", map[string]string{share + "50-virtiofsd.json": "{", rust: "x"}, "cannot read " + share + "50-virtiofsd.json", false},
		{"something else first", map[string]string{share + "40-gpu.json": `{"type": "gpu", "binary": "/x"}`, share + "50-virtiofsd.json": inRust, rust: "x"}, rust, false},
		{"the administrator's", map[string]string{"/etc/qemu/vhost-user/50-virtiofsd.json": inC, share + "50-virtiofsd.json": inRust, rust: "x", c: "x"}, c, true},
		{"hidden by an empty file", map[string]string{"/etc/qemu/vhost-user/50-virtiofsd.json": "", share + "50-virtiofsd.json": inRust, rust: "x"}, "no virtiofsd is described", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := FindVirtiofsd(tree(t, tt.files))
			if err != nil {
				if !errors.Is(err, ErrNoVirtiofsd) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				return
			}
			if v.Binary != tt.want || v.InC() != tt.inC || v.Description == "" {
				t.Errorf("%+v, want %s, in C: %v", v, tt.want, tt.inC)
			}
		})
	}
}
