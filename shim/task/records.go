package task

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// A pod's directory has a record of each container in it: a file that is named as it
// and holds the path of its bundle. Where containerd does not have the containers of
// a pod cleaned up whose shim has died, the pod's own is the only one that is.

func (n Names) records() string { return filepath.Join(n.Sandbox.State, "members") }

// recordMember notes a container of a pod.
func recordMember(n Names, bundle string) error {
	if err := os.MkdirAll(n.records(), 0o700); err != nil {
		return err
	}
	return writeFile(filepath.Join(n.records(), n.ID), bundle)
}

// forgetMember is called when nothing of the container is left.
func forgetMember(n Names) error {
	if err := os.Remove(filepath.Join(n.records(), n.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// recordedMember is a container of a pod, as noted.
type recordedMember struct {
	names  Names
	bundle string
}

// recordedMembers returns the containers of the pod that n owns.
func recordedMembers(n Names) ([]recordedMember, error) {
	entries, err := os.ReadDir(n.records())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []recordedMember
	for _, e := range entries {
		bundle, readErr := os.ReadFile(filepath.Join(n.records(), e.Name()))
		if readErr != nil {
			err = errors.Join(err, readErr)
			continue
		}
		all = append(all, recordedMember{n.member(e.Name()), string(bundle)})
	}
	return all, err
}
