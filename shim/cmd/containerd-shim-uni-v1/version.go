package main

import "runtime/debug"

// version is set by the build with -ldflags "-X main.version=…".
var version string

// build returns the version and revision of this binary, from the linker or
// from what the Go tool recorded.
func build() (v, revision string) {
	v = version
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v, ""
	}
	if v == "" {
		v = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return v, revision
}
