package main

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"containerd-shim-uni/config"
)

// runtimeType is the runtime's name in containerd's configuration.
const runtimeType = "io.containerd.uni.v1"

// containerdFile is what the checks read of a file of containerd's configuration,
// whatever its version.
type containerdFile struct {
	Disabled []string `toml:"disabled_plugins"`
	Plugins  map[string]struct {
		Containerd struct {
			Runtimes map[string]struct {
				Type        string   `toml:"runtime_type"`
				Annotations []string `toml:"pod_annotations"`
			}
		}
	}
}

// oldCRI is the plugin that serves Kubernetes in containerd 1: an imported file
// replaces all of its configuration.
const oldCRI = "io.containerd.grpc.v1.cri"

// rancherFiles are those that k3s and rke2 write for their containerd.
var rancherFiles = []string{"/var/lib/rancher/*/agent/etc/containerd/config.toml", "/var/lib/rancher/*/agent/etc/containerd/config-v3.toml.d/*.toml"}

// checkPods says whether containerd offers the runtime to Kubernetes.
func checkPods(_ context.Context, h host, _ config.Config) finding {
	const main = "/etc/containerd/config.toml"
	var handlers []string
	files := append(h.glob(main), h.glob("/etc/containerd/conf.d/*.toml")...)
	for _, pattern := range rancherFiles {
		files = append(files, h.glob(pattern)...)
	}
	for _, file := range files {
		text, err := h.read(file)
		if err != nil {
			return warn("let root read it", "%v", err)
		}
		var c containerdFile
		if err := toml.Unmarshal([]byte(text), &c); err != nil {
			return warn("correct the file", "%s: %v", file, err)
		}
		if i := slices.IndexFunc(c.Disabled, func(p string) bool { return p == "cri" || p == oldCRI }); i >= 0 {
			return warn("remove it from disabled_plugins if Kubernetes is to use this host", "%s disables the plugin %s", file, c.Disabled[i])
		}
		for _, plugin := range slices.Sorted(maps.Keys(c.Plugins)) {
			runtimes := c.Plugins[plugin].Containerd.Runtimes
			for _, name := range slices.Sorted(maps.Keys(runtimes)) {
				r := runtimes[name]
				switch {
				case r.Type != runtimeType:
					continue
				case plugin == oldCRI && strings.HasPrefix(file, "/etc/containerd/conf.d/"):
					return warn("move its lines to "+main, "%s: as an imported file it replaces the other settings of %s", filepath.Base(file), oldCRI)
				case !slices.ContainsFunc(r.Annotations, func(a string) bool { return strings.HasPrefix(a, "io.containerd.uni.") }):
					return warn(`add pod_annotations = ["io.containerd.uni.*"] to it`, "%s: pods of the handler %s cannot choose a guest or a size", file, name)
				}
				handlers = append(handlers, name)
			}
		}
	}
	if len(handlers) == 0 {
		return ok("no handler for Kubernetes; uni node install configures it")
	}
	return ok("handlers for Kubernetes: %s", strings.Join(handlers, ", "))
}
