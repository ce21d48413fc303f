package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/reaper"
	"containerd-shim-uni/shim/task"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// statusKilled is what containerd reports of a container whose shim is gone.
const statusKilled = 128 + 9

// deleteTimeout bounds delete. containerd itself waits 5 s.
const deleteTimeout = 30 * time.Second

// delete frees whatever is left of a container whose shim is gone, knowing only
// its names.
func (r Runtime) delete(ctx context.Context, f flags, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	// The hypervisor is to become our child, so that it does not stay a zombie
	// that libvirt waits for.
	if err := reaper.Subreaper(); err != nil {
		log.L.WithError(err).Debug("cannot adopt orphans")
	}
	go reaper.Run(ctx)

	group, err := groupOf(f.bundle, f.id)
	if err != nil {
		group = f.id
	}
	address := shimAddress(f, group)
	alive := served(address)
	err = r.cleanup(ctx, f, group, alive)
	// A shim that is being killed loses its connections first and its socket last,
	// and others can connect to that in between: look again.
	if !alive || !served(address) {
		removeSocket(address)
	}
	if err != nil {
		return err
	}
	return sayDeleted(stdout)
}

// sayDeleted is what delete prints.
func sayDeleted(stdout io.Writer) error {
	data, err := proto.Marshal(&taskapi.DeleteResponse{ExitStatus: statusKilled, ExitedAt: timestamppb.Now()})
	if err != nil {
		return err
	}
	_, err = stdout.Write(data)
	return err
}

// cleanup leaves a shim that lives alone, as long as it has not forgotten the
// container. That of a pod outlasts the pod's containers, and sees to them itself.
func (r Runtime) cleanup(ctx context.Context, f flags, group string, alive bool) error {
	cfg, err := task.LoadConfig(f.bundle)
	if err != nil {
		// The file may have become wrong since; the usual places are the best guess.
		fmt.Fprintf(os.Stderr, "configuration: %s; the defaults are used\n", err)
		cfg = config.Default()
	}
	host := r.Host(f.namespace, group)
	names := task.NewNames(cfg.Storage, f.namespace, f.id, task.Pod(f.bundle))
	if alive && !names.Owns() {
		return nil
	}
	existed := names.Exists()
	disks, err := host.Disks(cfg)
	if err != nil {
		log.L.WithError(err).Warn("no disks: what the container wrote is saved at its next start")
		disks = nil
	}
	var machineErr error
	if !alive || existed {
		for _, machine := range names.Machines() {
			machineErr = errors.Join(machineErr, host.CleanUp(ctx, cfg, machine))
		}
	}
	err = errors.Join(machineErr,
		task.Cleanup(ctx, names, task.NetworkNamespace(f.bundle), f.bundle, host.Networks(cfg), disks))
	if existed {
		task.PostStopOf(ctx, names, f.bundle)
	}
	return err
}

// shimAddress returns the address of a container's shim. containerd may have
// removed the bundle that records it; then it is where start puts it.
func shimAddress(f flags, group string) string {
	address, err := os.ReadFile(filepath.Join(f.bundle, addressFile))
	if err != nil {
		return unixScheme + socketPath(defaultSocketDir, f.address, f.namespace, group)
	}
	return string(address)
}
