package builder

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// BenchmarkRoot measures a container's start when the root is cached, and when
// it must be built: a file of 1 MiB, synced to the disk.
func BenchmarkRoot(b *testing.B) {
	for _, state := range []string{"cached", "built"} {
		b.Run(state, func(b *testing.B) {
			dir := b.TempDir()
			s, err := Open(dir, Options{MaxSize: large})
			if err != nil {
				b.Fatal(err)
			}
			root := &fakeRoot{dir: b.TempDir()}
			if err := os.WriteFile(filepath.Join(root.dir, "f"), []byte(strings.Repeat("x", mib)), 0o600); err != nil {
				b.Fatal(err)
			}
			dst := filepath.Join(dir, "root.erofs")
			for b.Loop() {
				if err := s.Root(b.Context(), root.rootfs("key"), dst); err != nil {
					b.Fatal(err)
				}
				if err := os.Remove(dst); err != nil {
					b.Fatal(err)
				}
				if state == "built" {
					if _, err := s.Prune(0); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkConfigure measures a container's own layer over a disk with 4,286
// files, as many as an image with an interpreter and its libraries has.
func BenchmarkConfigure(b *testing.B) {
	files := b.TempDir()
	writeFile(b, filepath.Join(files, "usr/bin/app"), []byte(elfProgram))
	for i := range 4285 {
		writeFile(b, filepath.Join(files, fmt.Sprintf("usr/lib/d%d/file%d", i/50, i)), []byte("x"))
	}
	dir := b.TempDir()
	s, err := Open(dir, Options{MaxSize: large})
	if err != nil {
		b.Fatal(err)
	}
	base, layer := filepath.Join(dir, "boot.tfs"), filepath.Join(dir, "boot.qcow2")
	if err := s.BootDisk(b.Context(), rootAt(files), fakeKernel(b), base); err != nil {
		b.Fatal(err)
	}
	hosts := filepath.Join(b.TempDir(), "hosts")
	writeFile(b, hosts, []byte("127.0.0.1 localhost\n"))
	c := unikernel.BootConfig{Args: []string{"app", "x"}, Env: []string{"PATH=/bin:/usr/bin", "HOME=/"}, Cwd: "/",
		Options: []unikernel.Option{{Name: "en1.ipaddr", Value: "10.0.0.2"}},
		Files:   []unikernel.BootFile{{Path: "/etc/hosts", Source: hosts}, {Path: "/etc/resolv.conf", Source: hosts}}}
	for b.Loop() {
		if _, err := s.Configure(b.Context(), rawDisk(base), layer, 1<<30, c); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(layer); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVolume measures what a read-only bind mount of 4,286 files, 50 MiB,
// adds to that, with its disk in the cache or not to be shared.
func BenchmarkVolume(b *testing.B) {
	source := b.TempDir()
	for i := range 4286 {
		writeFile(b, filepath.Join(source, fmt.Sprintf("d%d/file%d", i/50, i)), make([]byte, 12<<10))
	}
	dir := b.TempDir()
	s, err := Open(dir, Options{MaxSize: large})
	if err != nil {
		b.Fatal(err)
	}
	base, layer := filepath.Join(dir, "boot.tfs"), filepath.Join(dir, "boot.qcow2")
	files := b.TempDir()
	writeFile(b, filepath.Join(files, "x"), []byte(elfProgram))
	if err := s.BootDisk(b.Context(), rootAt(files), fakeKernel(b), base); err != nil {
		b.Fatal(err)
	}
	c := unikernel.BootConfig{Args: []string{"/x"}, Cwd: "/", Volumes: []unikernel.Volume{
		{Path: "/v", Source: source, Recursive: true, ReadOnly: true, MaxSource: large}}}
	for name, age := range map[string]time.Duration{"shared": time.Hour, "private": -time.Hour} {
		b.Run(name, func(b *testing.B) {
			s.now = func() time.Time { return time.Now().Add(age) }
			configure := func() {
				if _, err := s.Configure(b.Context(), rawDisk(base), layer, 1<<30, c); err != nil {
					b.Fatal(err)
				}
				if err := os.Remove(layer); err != nil {
					b.Fatal(err)
				}
			}
			configure()
			for b.Loop() {
				configure()
			}
		})
	}
}

// BenchmarkWritable measures a container's own layer, its template cached.
func BenchmarkWritable(b *testing.B) {
	dir := b.TempDir()
	s, err := Open(dir, Options{MaxSize: large})
	if err != nil {
		b.Fatal(err)
	}
	if s.mke2 == "" {
		b.Skip("mke2fs is not installed")
	}
	for b.Loop() {
		if err := s.Writable(b.Context(), filepath.Join(dir, "w"), 10<<30); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "w")); err != nil {
			b.Fatal(err)
		}
	}
}
