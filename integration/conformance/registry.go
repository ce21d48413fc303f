package conformance

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Address is where the registry listens: test programs have it built in.
const Address = "127.0.0.1:5017"

// Serve serves an image, which is in a directory of the OCI layout, under all
// names, until the context ends. It returns the digest of the image's manifest.
func Serve(ctx context.Context, dir string, names []string) (digest string, err error) {
	l, err := net.Listen("tcp", Address)
	if err != nil {
		return "", err
	}
	s := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go func() { _ = s.Serve(l) }() // ends with Close
	go func() { <-ctx.Done(); s.Close() }()
	img, err := imageIn(dir)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		ref, err := name.ParseReference(Address + "/" + n)
		if err != nil {
			return "", err
		}
		if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
			return "", fmt.Errorf("push %s: %w", n, err)
		}
	}
	d, err := img.Digest()
	return d.String(), err
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
