package image

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"containerd-shim-uni/unikernel"
)

// Options say how to find an image.
type Options struct {
	// Platform is the wanted one, such as linux/amd64; empty means that.
	Platform string
	// PlainHTTP talks to a registry without TLS. Registries on localhost and on
	// private addresses are tried so when TLS fails.
	PlainHTTP bool
	// Keychain has the registries' credentials; nil is docker's configuration
	// file and its helpers.
	Keychain authn.Keychain
	// Transport reaches the registry; nil is the system's, with its certificate
	// authorities and proxies.
	Transport http.RoundTripper
	// TempDir holds what must be kept on disk meanwhile: as much as the
	// uncompressed layers. Empty is $TMPDIR. Where that is in memory (tmpfs), it is
	// /var/tmp. The files have no names, so they end with the process.
	TempDir string
	// Stdin is what the source "-" reads.
	Stdin io.Reader
	// Progress, if not nil, is told of bytes read and yet to read.
	Progress *Progress
}

// DefaultPlatform is the one that the guests run.
const DefaultPlatform = "linux/amd64"

// Image is one image of a source, for one platform. Close it.
type Image struct {
	// Source is what was opened, such as "oci layout /dir".
	Source string
	// Digest is the manifest's; empty for a docker archive, which has none.
	Digest string
	// ID is the digest of the configuration.
	ID string
	// Config is the image's configuration.
	Config v1.ConfigFile

	layers  []layer
	options Options
	close   func() error
}

// Layers is the number of layers.
func (i *Image) Layers() int { return len(i.layers) }

// Close closes the source.
func (i *Image) Close() error { return i.close() }

// PlatformError says that a source has no image for a platform.
type PlatformError struct {
	Source string
	Want   string
	Have   []string
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("%s has no image for %s but for %s", e.Source, e.Want, strings.Join(e.Have, ", "))
}

func (e *PlatformError) Unwrap() error { return unikernel.ErrNotFound }

// Sources of Open by prefix.
const (
	prefixLayout   = "oci:"
	prefixArchive  = "oci-archive:"
	prefixDocker   = "docker-archive:"
	prefixRegistry = "docker://"
)

// Open finds an image. The source is one of
//
//	oci:DIR[:NAME]          a directory in the OCI layout
//	oci-archive:FILE[:NAME] a tar file of one, also compressed by gzip or zstd
//	docker-archive:FILE[:NAME]
//	docker://REFERENCE      an image in a registry
//	-                       an archive from Options.Stdin
//
// or, without a prefix, a file or directory if there is one of that name, else
// a reference. NAME picks one image where there are several. Errors wrap
// unikernel.ErrInvalid or ErrNotFound, or ErrUnavailable for a registry; a
// missing platform is a PlatformError.
func Open(ctx context.Context, source string, o Options) (*Image, error) {
	want, err := v1.ParsePlatform(cmp.Or(o.Platform, DefaultPlatform))
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w: %w", o.Platform, unikernel.ErrInvalid, err)
	}
	i, err := open(ctx, source, want, o)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	i.options = o
	return i, nil
}

func open(ctx context.Context, source string, want *v1.Platform, o Options) (*Image, error) {
	for _, prefix := range []string{prefixLayout, prefixArchive, prefixDocker} {
		if rest, ok := strings.CutPrefix(source, prefix); ok {
			path, name := splitName(rest)
			return openPath(ctx, path, name, want, o)
		}
	}
	if rest, ok := strings.CutPrefix(source, prefixRegistry); ok {
		return openRegistry(ctx, rest, want, o)
	}
	if source == "-" {
		return openStdin(ctx, want, o)
	}
	if _, err := os.Stat(source); err == nil {
		return openPath(ctx, source, "", want, o)
	}
	if strings.HasPrefix(source, "/") || strings.HasPrefix(source, ".") {
		return nil, fmt.Errorf("%s: %w: %w", source, unikernel.ErrNotFound, os.ErrNotExist)
	}
	return openRegistry(ctx, source, want, o)
}

// splitName cuts a name from a path: at the first colon behind what exists.
func splitName(s string) (path, name string) {
	if _, err := os.Stat(s); err == nil {
		return s, ""
	}
	for i, c := range s {
		if c == ':' {
			if _, err := os.Stat(s[:i]); err == nil {
				return s[:i], s[i+1:]
			}
		}
	}
	return s, ""
}

// blobs is where manifests and blobs come from. Whoever reads them verifies.
type blobs interface {
	open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
}

// finder looks for an image below descriptors.
type finder struct {
	blobs  blobs
	source string
	want   *v1.Platform
	have   []string // platforms seen
}

// found is a manifest that fits.
type found struct {
	desc     v1.Descriptor
	manifest v1.Manifest
	config   v1.ConfigFile
}

// Bounds of what is read into memory, in bytes, and of nesting.
const (
	maxManifest = 4 << 20 // what registries take
	maxIndexes  = 4
	maxLayers   = 1000
)

// find returns the image of the platform; several are an error.
func (f *finder) find(ctx context.Context, descs []v1.Descriptor, close func() error) (*Image, error) {
	all, err := f.walk(ctx, descs, 0)
	if err != nil {
		return nil, err
	}
	switch {
	case len(all) == 0 && len(f.have) == 0:
		return nil, fmt.Errorf("%s: no image: %w", f.source, unikernel.ErrNotFound)
	case len(all) == 0:
		return nil, &PlatformError{f.source, f.want.String(), f.have}
	}
	// The plainest variant runs everywhere.
	slices.SortStableFunc(all, func(a, b found) int { return strings.Compare(variant(a.desc), variant(b.desc)) })
	if len(all) > 1 && variant(all[0].desc) == variant(all[1].desc) {
		return nil, fmt.Errorf("%s: several images for %s, name one: %s: %w", f.source, f.want, strings.Join(names(all), ", "), unikernel.ErrInvalid)
	}
	return f.image(all[0], close)
}

func variant(d v1.Descriptor) string {
	if d.Platform == nil {
		return ""
	}
	return d.Platform.Variant
}

// names are how the images of one source are told apart.
func names(all []found) []string {
	var s []string
	for _, f := range all {
		s = append(s, cmp.Or(f.desc.Annotations[annotationImageName], f.desc.Annotations[annotationRefName], f.desc.Digest.String()))
	}
	return s
}

func (f *finder) walk(ctx context.Context, descs []v1.Descriptor, depth int) ([]found, error) {
	var all []found
	seen := map[v1.Hash]bool{}
	for _, d := range descs {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		if d.MediaType.IsIndex() {
			kids, err := f.index(ctx, d, depth)
			if err != nil {
				return nil, err
			}
			all = append(all, kids...)
			continue
		}
		m, ok, err := f.manifest(ctx, d)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, m)
		}
	}
	return all, nil
}

func (f *finder) index(ctx context.Context, d v1.Descriptor, depth int) ([]found, error) {
	if depth == maxIndexes {
		return nil, fmt.Errorf("%s: more than %d indexes in each other: %w", f.source, maxIndexes, unikernel.ErrInvalid)
	}
	var m v1.IndexManifest
	if _, err := f.json(ctx, "index", d, &m); err != nil {
		return nil, err
	}
	return f.walk(ctx, m.Manifests, depth+1)
}

// manifest reads a manifest and its configuration; ok is whether it is an image
// of the platform.
func (f *finder) manifest(ctx context.Context, d v1.Descriptor) (_ found, ok bool, err error) {
	if d.Platform != nil && !d.Platform.Satisfies(*f.want) {
		f.note(d.Platform)
		return found{}, false, nil
	}
	if d.MediaType == types.DockerManifestSchema1 || d.MediaType == types.DockerManifestSchema1Signed {
		return found{}, false, fmt.Errorf("%s: a manifest of schema 1, push the image anew: %w", f.source, unikernel.ErrNotImplemented)
	}
	r := found{desc: d}
	if _, err := f.json(ctx, "manifest", d, &r.manifest); err != nil {
		return found{}, false, err
	}
	if !r.manifest.Config.MediaType.IsConfig() {
		return found{}, false, nil // some other artefact
	}
	if _, err := f.json(ctx, "configuration", r.manifest.Config, &r.config); err != nil {
		return found{}, false, err
	}
	p := v1.Platform{OS: r.config.OS, Architecture: r.config.Architecture, Variant: r.config.Variant}
	if want := (v1.Platform{OS: f.want.OS, Architecture: f.want.Architecture}); !p.Satisfies(want) {
		f.note(&p)
		return found{}, false, nil
	}
	return r, true, nil
}

func (f *finder) note(p *v1.Platform) {
	if s := p.String(); !slices.Contains(f.have, s) && p.OS != "unknown" {
		f.have = append(f.have, s)
	}
}

// json reads and verifies a document.
func (f *finder) json(ctx context.Context, what string, d v1.Descriptor, v any) ([]byte, error) {
	data, err := readBlob(ctx, f.blobs, d)
	if err == nil {
		if jerr := unmarshal(data, v); jerr != nil {
			err = jerr
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s %s: %w", f.source, what, d.Digest, err)
	}
	return data, nil
}

// readBlob reads a small blob whole, and verifies it.
func readBlob(ctx context.Context, from blobs, d v1.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxManifest {
		return nil, fmt.Errorf("%d bytes, at most %d are read: %w", d.Size, maxManifest, unikernel.ErrInvalid)
	}
	r, err := from.open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	v := newVerifier(r, d.Digest, d.Size)
	if _, err := io.Copy(&b, v); err != nil {
		return nil, err
	}
	return b.Bytes(), v.check()
}

// image makes the Image of a manifest.
func (f *finder) image(m found, close func() error) (*Image, error) {
	diffs := m.config.RootFS.DiffIDs
	if len(diffs) != len(m.manifest.Layers) || len(diffs) > maxLayers {
		return nil, fmt.Errorf("%s: %d layers and %d diff IDs: %w", f.source, len(m.manifest.Layers), len(diffs), unikernel.ErrInvalid)
	}
	i := &Image{Source: f.source, Digest: m.desc.Digest.String(), ID: m.manifest.Config.Digest.String(), Config: m.config, close: close}
	for n, d := range m.manifest.Layers {
		if strings.HasSuffix(string(d.MediaType), "+encrypted") {
			return nil, fmt.Errorf("%s: layer %s is encrypted: %w", f.source, d.Digest, unikernel.ErrNotImplemented)
		}
		i.layers = append(i.layers, layer{
			name: d.Digest.String(), digest: d.Digest, diffID: diffs[n], size: d.Size,
			open: func(ctx context.Context) (io.ReadCloser, error) { return f.blobs.open(ctx, d) },
		})
	}
	return i, nil
}
