package image

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A disk in a registry is an OCI artefact: an image manifest (specification
// 1.1) with ArtifactType, whose configuration is the disk's Manifest as JSON and
// whose only layer is the disk itself, as a file.
const (
	ArtifactType    = "application/vnd.containerd-shim-uni.disk.v1"
	ConfigMediaType = "application/vnd.containerd-shim-uni.disk.config.v1+json"
	RawMediaType    = "application/vnd.containerd-shim-uni.disk.layer.v1.raw"
	Qcow2MediaType  = "application/vnd.containerd-shim-uni.disk.layer.v1.qcow2"

	// annotationTitle is the name under which tools store a layer.
	annotationTitle = "org.opencontainers.image.title"
)

// diskMediaTypes are the layers' by the format of a disk.
var diskMediaTypes = map[string]types.MediaType{"raw": RawMediaType, "qcow2": Qcow2MediaType}

// artefact is the manifest; the library's type has no artifactType.
type artefact struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	ArtifactType  string          `json:"artifactType"`
	Config        v1.Descriptor   `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
}

// Push stores a disk, which has the format "raw" or "qcow2" and the manifest m,
// under a reference, and returns the artefact's digest. The same disk gives the
// same artefact. Progress is told of bytes sent.
func Push(ctx context.Context, disk *os.File, format string, m Manifest, reference string, o Options) (digest string, err error) {
	ref, err := ParseReference(reference, o.PlainHTTP)
	if err != nil {
		return "", err
	}
	mediaType, ok := diskMediaTypes[format]
	if !ok {
		return "", invalid("disk format %q", format)
	}
	config, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	layer, err := newDiskLayer(ctx, disk, mediaType, o.Progress)
	if err != nil {
		return "", err
	}
	options := remoteOptions(ctx, o)
	configLayer := static.NewLayer(config, ConfigMediaType)
	a := artefact{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: ArtifactType}
	if a.Config.Digest, err = configLayer.Digest(); err != nil {
		return "", err
	}
	a.Config.MediaType, a.Config.Size = ConfigMediaType, int64(len(config))
	a.Layers = []v1.Descriptor{{
		MediaType: mediaType, Size: layer.size, Digest: layer.digest,
		Annotations: map[string]string{annotationTitle: "disk." + format},
	}}
	for _, l := range []v1.Layer{configLayer, layer} {
		if err := remote.WriteLayer(ref.Context(), l, options...); err != nil {
			return "", registryError(ref.String(), err)
		}
	}
	data, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	if err := remote.Put(ref, rawManifest(data), options...); err != nil {
		return "", registryError(ref.String(), err)
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// rawManifest is what remote.Put stores.
type rawManifest []byte

// RawManifest implements remote.Taggable.
func (m rawManifest) RawManifest() ([]byte, error) { return m, nil }

// MediaType says what it is.
func (rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// diskLayer is a disk as a layer, stored as it is.
type diskLayer struct {
	disk      *os.File
	size      int64
	digest    v1.Hash
	mediaType types.MediaType
	progress  *Progress
}

func newDiskLayer(ctx context.Context, disk *os.File, mediaType types.MediaType, p *Progress) (*diskLayer, error) {
	st, err := disk.Stat()
	if err != nil {
		return nil, err
	}
	l := &diskLayer{disk: disk, size: st.Size(), mediaType: mediaType, progress: p}
	sum := sha256.New()
	if _, err := io.Copy(sum, contextReader{ctx, io.NewSectionReader(disk, 0, l.size)}); err != nil {
		return nil, err
	}
	l.digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	p.expect(l.size)
	return l, nil
}

// These implement v1.Layer.
func (l *diskLayer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *diskLayer) DiffID() (v1.Hash, error)             { return l.digest, nil }
func (l *diskLayer) Size() (int64, error)                 { return l.size, nil }
func (l *diskLayer) MediaType() (types.MediaType, error)  { return l.mediaType, nil }
func (l *diskLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }
func (l *diskLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(l.progress.reader(io.NewSectionReader(l.disk, 0, l.size))), nil
}

// Pull writes the disk of an artefact to f, an empty file, and returns its
// format and what it says of itself. What is in f is verified only when Pull
// returns without an error.
func Pull(ctx context.Context, f *os.File, reference string, o Options) (format string, m Manifest, err error) {
	ref, err := ParseReference(reference, o.PlainHTTP)
	if err != nil {
		return "", m, err
	}
	puller, err := remote.NewPuller(remoteOptions(ctx, o)...)
	if err != nil {
		return "", m, err
	}
	d, err := puller.Get(ctx, ref)
	if err != nil {
		return "", m, registryError(ref.String(), err)
	}
	var a artefact
	if err := json.Unmarshal(d.Manifest, &a); err != nil {
		return "", m, invalid("%s: %v", ref, err)
	}
	if a.ArtifactType != ArtifactType || a.Config.MediaType != ConfigMediaType || len(a.Layers) != 1 {
		return "", m, invalid("%s is no disk but %s: make one with uni build", ref, cmp.Or(a.ArtifactType, string(d.MediaType)))
	}
	for name, mediaType := range diskMediaTypes {
		if mediaType == a.Layers[0].MediaType {
			format = name
		}
	}
	if format == "" {
		return "", m, invalid("%s: disk of type %s", ref, a.Layers[0].MediaType)
	}
	from := &repository{ref.Context(), puller, d}
	config, err := readBlob(ctx, from, a.Config)
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(config)).Decode(&m)
	}
	if err != nil {
		return "", m, fmt.Errorf("%s: configuration: %w", ref, err)
	}
	if err := pullBlob(ctx, f, from, a.Layers[0], o.Progress); err != nil {
		return "", m, fmt.Errorf("%s: %w", ref, err)
	}
	return format, m, nil
}

// pullBlob writes a blob to f and verifies it. Blocks of zeros become holes.
func pullBlob(ctx context.Context, f *os.File, from blobs, d v1.Descriptor, p *Progress) error {
	r, err := from.open(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	p.expect(d.Size)
	v := newVerifier(p.reader(contextReader{ctx, r}), d.Digest, d.Size)
	buf, zero := make([]byte, sparseUnit), make([]byte, sparseUnit)
	for at := int64(0); ; {
		n, err := io.ReadFull(v, buf)
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.Digest, unavailable(err))
		}
	}
	if err := f.Truncate(v.n); err != nil {
		return err
	}
	return v.check()
}

// unavailable is for a registry that breaks off; what is known stays.
func unavailable(err error) error {
	if isInvalid(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
