package conformance

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"containerd-shim-uni/integration/image"
)

// Address is where the registry listens: test programs have it built in.
const Address = "127.0.0.1:5017"

// Served is an image and the names, without a registry, that it is pulled by.
type Served struct {
	Image v1.Image
	Names []string
}

// Serve serves images until the context ends.
func Serve(ctx context.Context, images []Served) error {
	l, err := net.Listen("tcp", Address)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go func() { _ = s.Serve(l) }() // ends with Close
	go func() { <-ctx.Done(); s.Close() }()
	for _, i := range images {
		for _, n := range i.Names {
			ref, err := name.ParseReference(Address + "/" + n)
			if err != nil {
				return err
			}
			if err := remote.Write(ref, i.Image, remote.WithContext(ctx)); err != nil {
				return fmt.Errorf("push %s: %w", n, err)
			}
		}
	}
	return nil
}

// load writes an image below dir and returns it as registries know it.
func load(ctx context.Context, dir string, i image.Image) (v1.Image, error) {
	dir, err := os.MkdirTemp(dir, "image")
	if err != nil {
		return nil, err
	}
	archive := filepath.Join(dir, "archive.tar")
	if err := i.WriteFile(archive); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("tar: %w: %s", err, out)
	}
	return imageIn(dir)
}

// imageIn is the only image of a layout.
func imageIn(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(m.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images", dir, len(m.Manifests))
	}
	return index.Image(m.Manifests[0].Digest)
}
