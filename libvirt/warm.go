package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Warm fills the cache of what libvirt knows about QEMU, so that no container's
// start has to probe it for seconds. It is for the installation, and for after
// each upgrade of QEMU, libvirt or the kernel; then the first start does it
// else. It starts an embedded driver in this process, see Open. Only CapsCache,
// User and Log of the options matter.
func Warm(ctx context.Context, opts Options) error {
	caps := opts.CapsCache
	if caps == "" {
		caps = DefaultCapsCache
	}
	if err := os.MkdirAll(caps, 0o711); err != nil {
		return fmt.Errorf("warm libvirt's cache: %w", err)
	}
	root, err := os.MkdirTemp("/run", "uni-warm-")
	if err != nil {
		return fmt.Errorf("warm libvirt's cache: %w", err)
	}
	defer os.RemoveAll(root)
	d, err := Open(ctx, Options{URI: DefaultURI, EmbedRoot: root, CapsCache: caps,
		Accel: AccelTCG, User: opts.User, Log: opts.Log})
	if err != nil {
		return fmt.Errorf("warm libvirt's cache: %w", err)
	}
	// What was known may be of an earlier QEMU.
	return errors.Join(d.probe(ctx), d.Close())
}
