package nanos

import (
	"errors"
	"testing"

	"containerd-shim-uni/unikernel"
)

func TestMachine(t *testing.T) {
	for _, tt := range []struct {
		kind    string
		mib     int
		want    string
		wantMiB int
	}{
		{"auto", 15, "", 0},
		{"auto", 16, "q35", 16},
		{"auto", 64, "q35", 64},
		{"auto", 65, "q35", 64},
		{"auto", 127, "q35", 64},
		{"auto", 128, "microvm", 128},
		{"auto", 4096, "microvm", 4096},
		{"q35", 15, "", 0},
		{"q35", 100, "q35", 64},
		{"q35", 256, "q35", 256},
		{"microvm", 127, "", 0},
		{"microvm", 128, "microvm", 128},
	} {
		kind, r, err := machine(tt.kind, unikernel.Resources{MemoryMiB: tt.mib, VCPUs: 2})
		if tt.want == "" {
			if !errors.Is(err, unikernel.ErrInvalid) {
				t.Errorf("%s, %d MiB: %v, want ErrInvalid", tt.kind, tt.mib, err)
			}
			continue
		}
		if err != nil || kind != tt.want || r.MemoryMiB != tt.wantMiB || r.VCPUs != 2 {
			t.Errorf("%s, %d MiB: %s, %+v, %v; want %s with %d MiB", tt.kind, tt.mib, kind, r, err, tt.want, tt.wantMiB)
		}
	}
}
