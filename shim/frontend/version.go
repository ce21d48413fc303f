package frontend

import "runtime/debug"

// Build returns the version and revision of this program, from what the linker set
// or from what the Go tool recorded.
func Build(linked string) (version, revision string) {
	version = linked
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, ""
	}
	if version == "" {
		version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return version, revision
}
