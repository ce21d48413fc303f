package libvirt

import (
	"fmt"

	"containerd-shim-uni/unikernel"
)

// libraries are libvirt's that the binding loads at run time in a build with
// the tag libvirt_dlopen, and is linked with else. It says nothing of use when
// one is missing.
var libraries = []string{"libvirt.so.0", "libvirt-qemu.so.0"}

// load loads the libraries, or says which one is missing and how to get it.
func load(libraries []string, dlopen func(string) error) error {
	for _, name := range libraries {
		if err := dlopen(name); err != nil {
			return fmt.Errorf("%w: %s cannot be loaded: install libvirt's client library (Debian and Ubuntu: libvirt0; Fedora: libvirt-libs): %w",
				unikernel.ErrUnavailable, name, err)
		}
	}
	return nil
}

// oldest is the first libvirt that knows everything in our documents: 8.2.0
// brought <qemu:override> (libvirt, drvqemu.html). An older one ignores what it
// does not know, and the machine would be another than described.
var oldest = version(8, 2, 0)

// recent is an error for a libvirt that is too old.
func recent(libvirt uint32) error {
	if libvirt >= oldest {
		return nil
	}
	return fmt.Errorf("%w: libvirt %s is too old, %s or newer is needed", unikernel.ErrUnavailable, versionText(libvirt), versionText(oldest))
}

// versionText is how people write libvirt's number for a version.
func versionText(v uint32) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1_000%1_000, v%1_000)
}
