package linux

import (
	"context"
	"fmt"
	"path"
	"slices"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

var _ unikernel.VolumeKeeper = (*session)(nil)

// SetVolume implements unikernel.VolumeKeeper.
func (s *session) SetVolume(ctx context.Context, name string, v unikernel.VolumeContent) error {
	w := wire.Volume{Name: name, Options: v.Options}
	if v.Memory {
		w.Kind = wire.VolumeMemory
	}
	for _, f := range v.Files {
		w.Files = append(w.Files, wire.VolumeFile(f))
	}
	return s.volume(ctx, w)
}

// RemoveVolume implements unikernel.VolumeKeeper.
func (s *session) RemoveVolume(ctx context.Context, name string) error {
	return s.volume(ctx, wire.Volume{Name: name, Kind: wire.VolumeGone})
}

func (s *session) volume(ctx context.Context, v wire.Volume) error {
	if err := s.call(ctx, wire.KindVolume, v.Encode()); err != nil {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return nil
}

// inVolume names the source of a bind mount in a volume, if it is in one.
func inVolume(m *wire.Mount, volumes []unikernel.VolumeMount) bool {
	at := slices.IndexFunc(volumes, func(v unikernel.VolumeMount) bool {
		return v.Mount.Destination == m.Destination && v.Mount.Source == m.Source
	})
	if at < 0 {
		return false
	}
	m.Type, m.Source = wire.TypeVolume, path.Join(volumes[at].Volume, volumes[at].Path)
	return true
}
