package cri

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Dir is where in a bundle the pod's files are.
func Dir(bundle string) string { return filepath.Join(bundle, "pod") }

// ThisHost returns what pods take over from the host. A file that it does not have is
// empty.
func ThisHost() (h Host, err error) {
	if h.Name, err = os.Hostname(); err != nil {
		return h, err
	}
	for path, into := range map[string]*string{"/etc/hosts": &h.Hosts, "/etc/resolv.conf": &h.Resolv} {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return h, err
		}
		*into = string(text)
	}
	return h, nil
}

// Write makes a bundle of the directory that containerd made for the pod, and removes
// again: the specification and the files.
func (p Pod) Write(bundle string) error {
	spec, err := json.Marshal(p.Spec)
	if err != nil {
		return err
	}
	for _, m := range p.Spec.Mounts { // also what stands for the memory
		dir := filepath.Dir(m.Source)
		if m.Type == "tmpfs" {
			dir = m.Source
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for path, content := range p.Files {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o600)
}
