package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what becomes an archive.
type Image struct {
	// Name is the reference the image gets in containerd.
	Name string
	// Architecture is Go's name of it; empty means amd64.
	Architecture string
	Config       v1.ImageConfig
	// Layer writes the entries of the only layer.
	Layer func(*tar.Writer) error
}

// WriteFile writes the archive to a file, atomically.
func (i Image) WriteFile(path string) error {
	f, err := os.CreateTemp("", "uni-image-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	diffID, size, err := i.layer(f)
	if err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	defer out.Close()
	if err := i.archive(out, f, diffID, size); err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// layer writes the layer as an uncompressed tar file; its digest is also the
// diff id.
func (i Image) layer(w io.Writer) (digest.Digest, int64, error) {
	sum := sha256.New()
	count := &counter{w: io.MultiWriter(w, sum)}
	t := tar.NewWriter(count)
	if err := i.Layer(t); err != nil {
		return "", 0, err
	}
	if err := t.Close(); err != nil {
		return "", 0, err
	}
	return digest.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), count.n, nil
}

func (i Image) archive(w io.Writer, layer io.Reader, diffID digest.Digest, size int64) error {
	platform := v1.Platform{Architecture: i.Architecture, OS: "linux"}
	if platform.Architecture == "" {
		platform.Architecture = "amd64"
	}
	config := v1.Image{Platform: platform, Config: i.Config, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}}
	configBlob, err := blob(v1.MediaTypeImageConfig, config)
	if err != nil {
		return err
	}
	manifestBlob, err := blob(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    configBlob.Descriptor,
		Layers:    []v1.Descriptor{{MediaType: v1.MediaTypeImageLayer, Digest: diffID, Size: size}},
	})
	if err != nil {
		return err
	}
	d := manifestBlob.Descriptor
	d.Platform = &platform
	d.Annotations = map[string]string{"io.containerd.image.name": i.Name, v1.AnnotationRefName: "latest"}
	index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{d}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, f := range []entry{
		{v1.ImageLayoutFile, bytes.NewReader([]byte(layout)), int64(len(layout))},
		{v1.ImageIndexFile, bytes.NewReader(index), int64(len(index))},
		configBlob.entry(),
		manifestBlob.entry(),
		{"blobs/sha256/" + diffID.Encoded(), layer, size},
	} {
		h := tar.Header{Name: f.name, Mode: 0o644, Size: f.size, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		if err := t.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := io.Copy(t, f.body); err != nil {
			return err
		}
	}
	return t.Close()
}

const layout = `{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`

// jsonBlob is a document of the archive and its descriptor.
type jsonBlob struct {
	v1.Descriptor
	body []byte
}

func blob(mediaType string, v any) (jsonBlob, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return jsonBlob{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	return jsonBlob{d, body}, nil
}

func (b jsonBlob) entry() entry {
	return entry{"blobs/sha256/" + b.Digest.Encoded(), bytes.NewReader(b.body), b.Size}
}

// entry is one file of the archive.
type entry struct {
	name string
	body io.Reader
	size int64
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
