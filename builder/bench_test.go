package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
		for _, name := range []string{"w", TemplateName} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				b.Fatal(err)
			}
		}
	}
}
