package cgroup

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"
)

// Place is where a container's cgroup is, or is to be.
type Place struct {
	// Path is below the cgroup file system.
	Path string
	// Scope says that it is a unit of systemd's, where that runs: the scope of the
	// path's last name, in the slice of the one before.
	Scope bool
}

// PlaceOf returns the place that a specification's cgroupsPath means: a plain path,
// or systemd's "slice:prefix:name". An empty one means /namespace/id, which is also
// what ctr asks for.
func PlaceOf(cgroupsPath, namespace, id string) (Place, error) {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) == 3 && !strings.Contains(parts[0], "/") {
		path, err := systemdPath(parts[0], parts[1], parts[2])
		return Place{Path: path, Scope: strings.HasSuffix(path, scopeSuffix)}, err
	}
	path, err := plainPath(cgroupsPath, namespace, id)
	return Place{Path: path}, err
}

const scopeSuffix = ".scope"

func plainPath(cgroupsPath, namespace, id string) (string, error) {
	if cgroupsPath == "" {
		return "/" + namespace + "/" + id, nil
	}
	if slices.Contains(strings.Split(cgroupsPath, "/"), "..") {
		return "", fmt.Errorf("cgroupsPath %q: %w: it must not hold \"..\"", cgroupsPath, unikernel.ErrInvalid)
	}
	clean := filepath.Clean("/" + cgroupsPath)
	if clean == "/" {
		return "", fmt.Errorf("cgroupsPath %q: %w: it must name a cgroup below the root", cgroupsPath, unikernel.ErrInvalid)
	}
	return clean, nil
}

// systemdPath expands a slice as systemd nests them: "a-b.slice" is below
// "a.slice" (systemd.slice(5)). The unit is a scope named prefix-name.
func systemdPath(slice, prefix, name string) (string, error) {
	if slice == "" {
		slice = "system.slice"
	}
	base, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" || strings.Contains(prefix+name, "/") {
		return "", fmt.Errorf("cgroupsPath %q: %w: want slice:prefix:name with a slice that ends in .slice",
			slice+":"+prefix+":"+name, unikernel.ErrInvalid)
	}
	path := "/"
	if base != "-" { // "-.slice" is the root
		parts := strings.Split(base, "-")
		for i, part := range parts {
			if part == "" {
				return "", fmt.Errorf("slice %q: %w: empty part", slice, unikernel.ErrInvalid)
			}
			path = filepath.Join(path, strings.Join(parts[:i+1], "-")+".slice")
		}
	}
	unit := name
	if !strings.HasSuffix(name, ".slice") {
		unit = name + scopeSuffix
		if prefix != "" {
			unit = prefix + "-" + unit
		}
	}
	return filepath.Join(path, unit), nil
}
