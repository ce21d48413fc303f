package task

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"containerd-shim-uni/shim/rootfs"

	"github.com/containerd/containerd/api/types"
)

// unmerged says where what a container wrote belongs, where its layer cannot be
// kept with its snapshot: it is merged into the root file system when the
// container has ended. The record lies beside the layer's disk until then.
type unmerged struct {
	Mounts []*types.Mount `json:"mounts"`
	Target string         `json:"target"`
}

// keepUnmerged records where a layer is to be merged.
func keepUnmerged(names Names, disks Disks, u unmerged) error {
	data, err := json.Marshal(u)
	if err != nil {
		return err
	}
	if err := os.WriteFile(names.unmerged(), data, 0o600); err != nil {
		return err
	}
	return disks.Pin(names.Data, rootfs.Sources(u.Mounts, u.Target))
}

// merge merges a layer that is not merged yet, if there is one; its machine is
// gone. It says whether the root file system has changed.
func merge(ctx context.Context, names Names, disks Disks) (merged bool, err error) {
	data, err := os.ReadFile(names.unmerged())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	var u unmerged
	if err == nil {
		err = json.Unmarshal(data, &u)
	}
	if err != nil {
		return false, err
	}
	dir, done, err := rootfs.Open(u.Mounts, u.Target)
	if err != nil {
		return false, err
	}
	err = disks.Merge(ctx, names.writable(), dir)
	if err = errors.Join(err, done()); err != nil {
		return true, err
	}
	return true, os.Remove(names.unmerged())
}
