package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"containerd-shim-uni/unikernel"
)

// dockerImage is an entry of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// openDocker finds an image in what docker saved. An error that wraps
// fs.ErrNotExist without unikernel.ErrNotFound means that nothing was saved.
func openDocker(from files, path, name string, want *v1.Platform) (*Image, error) {
	var all []dockerImage
	if err := readJSON(from, dockerManifestFile, &all); err != nil {
		return nil, err
	}
	if name != "" {
		all = slices.DeleteFunc(all, func(d dockerImage) bool { return !slices.Contains(d.RepoTags, name) })
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no image %q: %w", path, name, unikernel.ErrNotFound)
	}
	if len(all) > 1 {
		var tags []string
		for _, d := range all {
			tags = append(tags, d.RepoTags...)
		}
		return nil, fmt.Errorf("%s: several images, name one: %s: %w", path, strings.Join(tags, ", "), unikernel.ErrInvalid)
	}
	i, err := all[0].image(from, path, want)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return i, nil
}

func (d dockerImage) image(from files, path string, want *v1.Platform) (*Image, error) {
	data, err := readFileBytes(from, d.Config)
	if err != nil {
		return nil, invalidIfMissing(err)
	}
	sum := sha256.Sum256(data)
	i := &Image{Source: path, ID: "sha256:" + hex.EncodeToString(sum[:]), close: from.Close}
	// The configuration is named by its digest.
	if base := strings.TrimSuffix(d.Config[strings.LastIndexByte(d.Config, '/')+1:], ".json"); len(base) == 64 && "sha256:"+base != i.ID {
		return nil, fmt.Errorf("configuration %s is %s: %w", d.Config, i.ID, ErrDigest)
	}
	if err := unmarshal(data, &i.Config); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", d.Config, err)
	}
	p := v1.Platform{OS: i.Config.OS, Architecture: i.Config.Architecture}
	if !p.Satisfies(v1.Platform{OS: want.OS, Architecture: want.Architecture}) {
		return nil, &PlatformError{path, want.String(), []string{p.String()}}
	}
	diffs := i.Config.RootFS.DiffIDs
	if len(diffs) != len(d.Layers) || len(diffs) > maxLayers {
		return nil, fmt.Errorf("%d layers and %d diff IDs: %w", len(d.Layers), len(diffs), unikernel.ErrInvalid)
	}
	for n, name := range d.Layers {
		r, size, err := from.openFile(name)
		if err != nil {
			return nil, invalidIfMissing(err)
		}
		r.Close()
		i.layers = append(i.layers, layer{
			name: name, diffID: diffs[n], size: size,
			open: func(context.Context) (io.ReadCloser, error) {
				r, _, err := from.openFile(name)
				return r, err
			},
		})
	}
	return i, nil
}

// invalidIfMissing is for files that the archive itself names.
func invalidIfMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %v", unikernel.ErrInvalid, err)
	}
	return err
}
