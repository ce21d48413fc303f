// Package containerd holds what containerd has to be told to offer the runtime to
// Kubernetes as the handler "uni", as files for a person and for package node.
package containerd

import _ "embed"

var (
	// V2 is for containerd 1.6 and 1.7, or a configuration of version 2.
	//
	//go:embed uni-v2.toml
	V2 string
	// V3 is for containerd 2.
	//
	//go:embed uni-v3.toml
	V3 string
)
