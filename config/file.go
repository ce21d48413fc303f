package config

import (
	_ "embed"
	"strings"
)

//go:embed config.toml
var defaultFile string

// DefaultFile returns the documented configuration file, in which every key is
// commented out with its default.
func DefaultFile() string {
	return strings.ReplaceAll(defaultFile, builtinLibDir+"/", LibDir+"/")
}
