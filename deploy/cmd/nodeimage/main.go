// Command nodeimage writes the image by which a DaemonSet installs the runtime on
// nodes: an archive that containerd, docker and registries' tools take. It holds the
// program "uni", linked statically as the image's entry point, and what it installs.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	out := flag.String("o", "", "`FILE` to write")
	reference := flag.String("name", "uni.local/node:latest", "the image's `REFERENCE`")
	entry := flag.String("entry", "", "`FILE` of the program uni, linked statically")
	built := flag.String("built", "out", "`DIRECTORY` with bin and guest")
	flag.Parse()
	if err := write(*out, *reference, *entry, *built); err != nil {
		fmt.Fprintln(os.Stderr, "nodeimage:", err)
		os.Exit(1)
	}
}

func write(out, reference, entry, built string) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	layer, err := layerOf(map[string]string{
		"uni":                                entry,
		"opt/uni/bin/uni":                    filepath.Join(built, "bin/uni"),
		"opt/uni/bin/uni-shim":               filepath.Join(built, "bin/uni-shim"),
		"opt/uni/bin/containerd-shim-uni-v1": filepath.Join(built, "bin/containerd-shim-uni-v1"),
		"opt/uni/lib/uni/linux/vmlinux":      filepath.Join(built, "guest/vmlinux"),
		"opt/uni/lib/uni/linux/initrd.img":   filepath.Join(built, "guest/initrd.img"),
	})
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	image, err = mutate.ConfigFile(image, configOf(image))
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(out+".new", tag, image); err != nil {
		return err
	}
	return os.Rename(out+".new", out)
}

// configOf is the image's configuration, with its layer.
func configOf(image v1.Image) *v1.ConfigFile {
	c, err := image.ConfigFile()
	if err != nil { // it is in memory
		panic(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	c.Config = v1.Config{Entrypoint: []string{"/uni"}, Cmd: []string{"node", "wait"}, Env: []string{"PATH=/"}}
	return c
}

// layerOf is a layer of files by their names in it, the same bytes for the same files.
func layerOf(files map[string]string) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for dir, at := "", strings.Split(name, "/"); len(at) > 1; at = at[1:] {
			dir += at[0] + "/"
			if made[dir] {
				continue
			}
			made[dir] = true
			if err := w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		text, err := os.ReadFile(files[name])
		if err != nil {
			return nil, err
		}
		mode := int64(0o755)
		if strings.Contains(name, "/linux/") {
			mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(text))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}
