//go:build !libvirt_dlopen

package libvirt

// dlopen has nothing to do: a program that is linked with libvirt does not
// start without it.
func dlopen(string) error { return nil }
