// Command uni-shim is the shim by which containerd runs containers as virtual
// machines. containerd-shim-uni-v1, which is what containerd runs, starts it.
package main

import (
	"os"

	"containerd-shim-uni/shim/frontend"
)

// version is set by the build with -ldflags "-X main.version=…".
var version string

func main() {
	v, revision := frontend.Build(version)
	os.Exit(frontend.Runtime{
		Name: "io.containerd.uni.v1", Version: v, Revision: revision, Host: newHost, Warm: warm, Template: makeTemplate,
	}.Main(os.Args))
}
