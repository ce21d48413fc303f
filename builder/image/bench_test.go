package image

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// BenchmarkBuild measures an image of 2,600 files and 117 MiB, one uncompressed
// layer of a layout, to a disk that is not synced.
func BenchmarkBuild(b *testing.B) {
	rnd := rand.NewChaCha8([32]byte{})
	body := make([]byte, 46<<10)
	rnd.Read(body)
	var entries []entry
	for i := range 2600 {
		entries = append(entries, file(fmt.Sprintf("d%d/f%d", i/40, i), string(body)))
	}
	layer := tarFile(b, entries...)
	img, err := mutate.AppendLayers(makeImage(b), static.NewLayer(layer, types.OCIUncompressedLayer))
	must(b, err)
	source := makeLayout(b, mutate.IndexAddendum{Add: img})
	b.SetBytes(int64(len(layer)))
	for b.Loop() {
		i, err := Open(b.Context(), source, Options{TempDir: b.TempDir()})
		must(b, err)
		f, err := os.Create(filepath.Join(b.TempDir(), "disk"))
		must(b, err)
		_, err = Build(b.Context(), i, f)
		must(b, err)
		must(b, f.Close())
		must(b, os.Remove(f.Name()))
		must(b, i.Close())
	}
}

// BenchmarkMerge measures the layers' entries alone: 50,000 files.
func BenchmarkMerge(b *testing.B) {
	var entries []entry
	for i := range 50_000 {
		entries = append(entries, file(fmt.Sprintf("usr/lib/d%d/f%d", i/50, i), ""))
	}
	layer := tarFile(b, entries...)
	for b.Loop() {
		s := spooled{}
		must(b, s.list(b.Context(), bytes.NewReader(layer), &counter{}, ""))
		m := newMerger()
		must(b, m.apply(s.items))
		m.tree()
	}
}
