package image

import (
	"archive/tar"
	"maps"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pause is the image of pods' sandboxes: a process that waits until it is killed,
// under a name that tests do not look for.
func Pause(name, busybox string) (Image, error) {
	i, err := Busybox(name, busybox)
	i.Config = v1.ImageConfig{Env: []string{defaultPath}, Entrypoint: []string{"tail", "-f", "/dev/null"}}
	return i, err
}

// Over is an image with the files of base and, in front of them, those of top.
func Over(base, top Image) Image {
	below := base.Layer
	base.Layer = func(t *tar.Writer) error {
		if err := below(t); err != nil {
			return err
		}
		return top.Layer(t)
	}
	return base
}

// With is the image with further texts, which anybody may execute.
func With(i Image, texts map[string]string) Image {
	return Over(i, Image{Layer: func(t *tar.Writer) error {
		w := &writer{t: t}
		for _, path := range slices.Sorted(maps.Keys(texts)) {
			w.text(path, 0o755, texts[path])
		}
		return w.first
	}})
}

// SetUID holds nothing but one static program, which runs as root whoever starts it.
func SetUID(name, program string) Image { return single(name, program, 0o4755) }
