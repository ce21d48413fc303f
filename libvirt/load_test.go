package libvirt

import (
	"errors"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

func TestLoad(t *testing.T) {
	if err := load(libraries, dlopen); err != nil {
		t.Errorf("libvirt of this host: %v", err)
	}
	missing := func(name string) error { return errors.New(name + ": cannot open shared object file") }
	err := load(libraries, missing)
	if !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "libvirt.so.0 cannot be loaded: install") || !strings.Contains(err.Error(), "libvirt0") {
		t.Errorf("without libvirt: %v", err)
	}
}

func TestRecent(t *testing.T) {
	for v, ok := range map[uint32]bool{version(8, 1, 99): false, version(8, 2, 0): true, version(9, 0, 0): true, version(11, 3, 0): true} {
		if err := recent(v); (err == nil) != ok || err != nil && !errors.Is(err, unikernel.ErrUnavailable) {
			t.Errorf("%s: %v", versionText(v), err)
		}
	}
	if err := recent(version(6, 1, 2)); err == nil || !strings.Contains(err.Error(), "libvirt 6.1.2 is too old, 8.2.0") {
		t.Errorf("%v", err)
	}
}
