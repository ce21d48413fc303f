package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
)

// ArtifactType marks the manifest of a disk in a registry. See the package's
// comment for what it consists of.
const ArtifactType = "application/vnd.containerd-shim-uni.disk.v1"

// diskMediaType is the layer's. containerd knows zstd since 1.5.
const diskMediaType = types.OCILayerZStd

// annotationImage names the image that the disk was made from: the digest of
// its configuration.
const annotationImage = "io.containerd.uni.image"

// artefact is the manifest; the library's type has no artifactType.
type artefact struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        v1.Descriptor     `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// runnable is the configuration of the image that the artefact is: the
// library's type has a time that is always written.
type runnable struct {
	OS           string    `json:"os"`
	Architecture string    `json:"architecture"`
	Config       v1.Config `json:"config"`
	RootFS       v1.RootFS `json:"rootfs"`
}

// Disk is what Push stores.
type Disk struct {
	File *os.File
	// Format is "raw" or "qcow2".
	Format   string
	Manifest Manifest
	// Root is the tree on the disk.
	Root *tree.Node
}

// diskInfo is unikernel.DiskInfoFile.
type diskInfo struct {
	unikernel.DiskInfo
	Manifest Manifest `json:"manifest"`
}

// Push stores a disk under a reference, as an image that runs without being
// converted, and returns the digest of its manifest. The same disk gives the
// same artefact. Progress is told of bytes of the disk, which is read twice:
// for the digest, which a registry wants to know first, and to be sent.
func Push(ctx context.Context, d Disk, reference string, o Options) (digest string, err error) {
	ref, err := ParseReference(reference, o.PlainHTTP)
	if err != nil {
		return "", err
	}
	layer, err := newDiskLayer(ctx, d, o.Progress)
	if err != nil {
		return "", err
	}
	m := d.Manifest
	config, err := json.Marshal(runnable{m.OS, m.Architecture, m.Config, v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer.diffID}}})
	if err != nil {
		return "", err
	}
	configLayer := static.NewLayer(config, types.OCIConfigJSON)
	a := artefact{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: ArtifactType,
		Config:      v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config))},
		Layers:      []v1.Descriptor{{MediaType: diskMediaType, Size: layer.size, Digest: layer.digest}},
		Annotations: map[string]string{annotationImage: m.Image},
	}
	if a.Config.Digest, err = configLayer.Digest(); err != nil {
		return "", err
	}
	options := remoteOptions(ctx, o)
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

// FinishedDisk is the disk that an image's files are, if they are one; else
// ok is false. The contents are valid until the tree is closed.
func FinishedDisk(root *tree.Node) (r tree.Content, info unikernel.DiskInfo, ok bool, err error) {
	n, _, err := root.Lookup("/" + unikernel.DiskInfoFile)
	if err != nil || !n.IsFile() {
		return nil, info, false, nil
	}
	if n.Size > maxDiskJSON {
		return nil, info, true, invalid("/%s has %d bytes, at most %d are possible", unikernel.DiskInfoFile, n.Size, maxDiskJSON)
	}
	data, err := readAll(n)
	if err != nil {
		return nil, info, true, err
	}
	if info, err = unikernel.ParseDiskInfo(data); err != nil {
		return nil, info, true, err
	}
	n, _, err = root.Lookup("/" + unikernel.DiskFile)
	if err != nil || !n.IsFile() || n.Size != info.Size {
		return nil, info, true, invalid("the image has no /%s of %d bytes", unikernel.DiskFile, info.Size)
	}
	r, err = n.Data.Open()
	return r, info, true, err
}
