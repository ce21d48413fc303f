package frontend

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/task"
)

// programs returns the path of this program, and of the one that serves.
func (r Runtime) programs() (self, server string, err error) {
	if self, err = os.Executable(); err != nil {
		return "", "", err
	}
	if r.Server == "" {
		return self, self, nil
	}
	return self, filepath.Join(filepath.Dir(self), r.Server), nil
}

// become makes this process run the program that serves. It returns only if it fails.
func (r Runtime) become(args []string) error {
	_, program, err := r.programs()
	if err != nil {
		return err
	}
	err = syscall.Exec(program, args, os.Environ())
	return fmt.Errorf("%s: %w: the runtime's two programs belong into one directory", program, err)
}

// nothingLeft says whether there is nothing to delete of a container, as is the rule: its
// shim has seen to that before it ended. It removes at most a socket that nobody serves.
func nothingLeft(f flags) bool {
	cfg, err := task.LoadConfig(f.bundle)
	if err != nil || cfg.Libvirt.URI != config.Default().Libvirt.URI { // else libvirt must be asked
		return false
	}
	group, err := groupOf(f.bundle, f.id)
	if err != nil {
		return false
	}
	names := task.NewNames(cfg.Storage, f.namespace, f.id, task.Pod(f.bundle))
	address := shimAddress(f, group)
	if served(address) {
		return !names.Owns() || !names.Exists()
	}
	if names.Exists() || names.Sandbox.Exists() || !absent(task.ShimDir(cfg.Storage, f.namespace, group)) {
		return false
	}
	removeSocket(address)
	return true
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
