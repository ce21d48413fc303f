package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"containerd-shim-uni/unikernel"
)

// ErrUnavailable is for a registry that cannot be reached or breaks off.
var ErrUnavailable = errors.New("registry unavailable")

// repository is one of a registry.
type repository struct {
	name   name.Repository
	puller *remote.Puller // keeps the login and the connections
	root   *remote.Descriptor
}

// ParseReference reads a reference of a registry: NAME[:TAG][@DIGEST], as
// docker completes it.
func ParseReference(s string, plainHTTP bool) (name.Reference, error) {
	var o []name.Option
	if plainHTTP {
		o = append(o, name.Insecure)
	}
	ref, err := name.ParseReference(s, o...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	return ref, nil
}

// remoteOptions are for every call to a registry.
func remoteOptions(ctx context.Context, o Options) []remote.Option {
	keychain := o.Keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain), remote.WithUserAgent("containerd-shim-uni")}
	if o.Transport != nil {
		options = append(options, remote.WithTransport(o.Transport))
	}
	return options
}

func openRegistry(ctx context.Context, s string, want *v1.Platform, o Options) (*Image, error) {
	ref, err := ParseReference(s, o.PlainHTTP)
	if err != nil {
		return nil, err
	}
	puller, err := remote.NewPuller(remoteOptions(ctx, o)...)
	if err != nil {
		return nil, err
	}
	d, err := puller.Get(ctx, ref)
	if err != nil {
		return nil, registryError(ref.String(), err)
	}
	r := &repository{ref.Context(), puller, d}
	f := finder{blobs: r, source: ref.String(), want: want}
	return f.find(ctx, []v1.Descriptor{d.Descriptor}, func() error { return nil })
}

func (r *repository) open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	ref := r.name.Digest(d.Digest.String())
	if d.Digest == r.root.Digest {
		return io.NopCloser(bytesReader(r.root.Manifest)), nil
	}
	if d.MediaType.IsIndex() || d.MediaType.IsImage() {
		m, err := r.puller.Get(ctx, ref)
		if err != nil {
			return nil, registryError(ref.String(), err)
		}
		return io.NopCloser(bytesReader(m.Manifest)), nil
	}
	l, err := r.puller.Layer(ctx, ref)
	if err != nil {
		return nil, registryError(ref.String(), err)
	}
	body, err := l.Compressed()
	return body, registryError(ref.String(), err)
}

// registryError makes what a registry answers one of our kinds.
func registryError(what string, err error) error {
	if err == nil {
		return nil
	}
	kind := ErrUnavailable
	var t *transport.Error
	if errors.As(err, &t) {
		switch t.StatusCode {
		case http.StatusNotFound:
			kind = unikernel.ErrNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%s: the registry refuses, log in with docker login or nerdctl login: %w: %w", what, unikernel.ErrInvalid, err)
		}
	}
	return fmt.Errorf("%s: %w: %w", what, kind, err)
}
