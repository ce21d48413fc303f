package frontend

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"containerd-shim-uni/config"
)

func TestWarm(t *testing.T) {
	file := filepath.Join(t.TempDir(), "uni.toml")
	if err := os.WriteFile(file, []byte("[libvirt]\ncaps_cache = \"/caps\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(config.EnvPath, file)
	boom := errors.New("boom")
	var got config.Config
	r := Runtime{Warm: func(_ context.Context, cfg config.Config) error { got = cfg; return boom }}
	var out bytes.Buffer
	if err := r.run(t.Context(), []string{"shim", "warm"}, nil, &out); !errors.Is(err, boom) {
		t.Errorf("error %v, want what warming returned", err)
	}
	if got.Libvirt.CapsCache != "/caps" || out.Len() > 0 {
		t.Errorf("cache %q, printed %q", got.Libvirt.CapsCache, out.String())
	}
}
