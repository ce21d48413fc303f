// Command containerd-shim-uni-v1 is what containerd runs for the runtime
// io.containerd.uni.v1. It is small: it starts the shim, which is the program uni-shim
// beside it, and answers what needs neither libvirt nor the builder. Everything else it
// leaves to that program.
package main

import (
	"os"

	"containerd-shim-uni/shim/frontend"
)

// version is set by the build with -ldflags "-X main.version=…".
var version string

func main() {
	v, revision := frontend.Build(version)
	os.Exit(frontend.Runtime{Name: "io.containerd.uni.v1", Version: v, Revision: revision, Server: "uni-shim"}.Main(os.Args))
}
