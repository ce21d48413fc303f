//go:build libvirt_dlopen

package libvirt

import (
	"strings"
	"testing"
)

func TestDlopenSaysWhy(t *testing.T) {
	if err := dlopen("libuni-absent.so.0"); err == nil || !strings.Contains(err.Error(), "libuni-absent.so.0: cannot open shared object file") {
		t.Errorf("%v", err)
	}
}
