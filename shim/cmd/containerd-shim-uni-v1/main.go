// Command containerd-shim-uni-v1 is the shim by which containerd runs
// containers as virtual machines: runtime io.containerd.uni.v1.
package main

import (
	"os"

	"containerd-shim-uni/shim/frontend"
)

func main() {
	v, revision := build()
	os.Exit(frontend.Runtime{
		Name: "io.containerd.uni.v1", Version: v, Revision: revision, Host: newHost, Warm: warm, Template: makeTemplate,
	}.Main(os.Args))
}
