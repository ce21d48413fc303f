package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
)

// New describes the root file system that mounts make. They are mounted at
// target, an existing or new directory, when somebody needs the files. Without
// mounts the files are at target already, put there by the client.
//
// Files that are a finished disk are recognised where the mounts show them; see
// Hidden for where they do not.
func New(mounts []*types.Mount, target string) (unikernel.Rootfs, error) {
	if len(mounts) == 0 {
		return unmounted(target)
	}
	all := convert(mounts)
	key, err := key(all)
	if err != nil {
		return unikernel.Rootfs{}, fmt.Errorf("root file system: %w", err)
	}
	disk, err := finished(all)
	if err != nil {
		return unikernel.Rootfs{}, fmt.Errorf("root file system: %w", err)
	}
	dirs, _ := visible(all)
	fs := unikernel.Rootfs{Key: key, Disk: disk, Open: opener(all, target), Find: finder(dirs)}
	if layer, below := split(all); layer != nil {
		key, err := layersKey(layersBelow(below))
		if err != nil {
			return unikernel.Rootfs{}, fmt.Errorf("root file system: %w", err)
		}
		fs.Layer, fs.Below = layer, &unikernel.Rootfs{Key: key, Disk: disk, Open: opener(below, target)}
	}
	return fs, nil
}

func opener(all []mount.Mount, target string) func(context.Context) (string, func() error, error) {
	return func(context.Context) (string, func() error, error) { return open(all, target) }
}

// unmounted describes files that the client put at target.
func unmounted(target string) (unikernel.Rootfs, error) {
	info, err := os.Stat(target)
	if err != nil || !info.IsDir() {
		return unikernel.Rootfs{}, fmt.Errorf("root file system: %w: no mounts were given and %s is no directory", unikernel.ErrInvalid, target)
	}
	disk, err := look(target)
	if err != nil && !errors.Is(err, errHidden) {
		return unikernel.Rootfs{}, fmt.Errorf("root file system: %w", err)
	}
	return unikernel.Rootfs{Disk: disk, Find: finder([]string{target}), Open: func(context.Context) (string, func() error, error) {
		return target, func() error { return nil }, nil
	}}, nil
}

// Hidden says that the files of mounts can only be seen when they are mounted:
// those of most snapshotters that keep file systems in files or devices.
func Hidden(mounts []*types.Mount) bool {
	if len(mounts) == 0 {
		return false
	}
	_, ok := visible(convert(mounts))
	return !ok
}

// Mount is New for mounts whose files are hidden: it mounts them at target, to
// stay until Unmount or until whoever opens the files closes them.
func Mount(mounts []*types.Mount, target string) (unikernel.Rootfs, error) {
	_, unmount, err := open(convert(mounts), target)
	if err != nil {
		return unikernel.Rootfs{}, fmt.Errorf("root file system: %w", err)
	}
	fs, err := unmounted(target)
	if err != nil {
		return fs, errors.Join(err, unmount())
	}
	fs.Open = func(context.Context) (string, func() error, error) { return target, unmount, nil }
	return fs, nil
}

func convert(mounts []*types.Mount) []mount.Mount {
	all := make([]mount.Mount, len(mounts))
	for i, m := range mounts {
		all[i] = mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return all
}

func open(all []mount.Mount, target string) (string, func() error, error) {
	if err := os.MkdirAll(target, 0o711); err != nil {
		return "", nil, err
	}
	if err := mount.All(all, target); err != nil {
		return "", nil, errors.Join(fmt.Errorf("mount root file system: %w", err), Unmount(target))
	}
	return target, func() error { return Unmount(target) }, nil
}

// Unmount takes away whatever is mounted at target; nothing need be.
func Unmount(target string) error {
	if _, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := mount.UnmountRecursive(target, 0); err != nil {
		return fmt.Errorf("unmount root file system %s: %w", target, err)
	}
	return nil
}

// Path returns the directory of a bundle's root file system: root is the
// specification's path, absolute or below the bundle.
func Path(bundle, root string) string {
	switch {
	case root == "":
		return filepath.Join(bundle, "rootfs")
	case filepath.IsAbs(root):
		return root
	default:
		return filepath.Join(bundle, root)
	}
}
