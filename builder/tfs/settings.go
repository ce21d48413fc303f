package tfs

import (
	"fmt"
	"strings"
)

// Settings are a tuple of named values: string, uint64, Settings or Vector.
type Settings []Setting

// Setting is one attribute of a tuple.
type Setting struct {
	Name  string
	Value any
}

// Vector is a list of strings.
type Vector []string

var errSetting = fmt.Errorf("a setting has a value that cannot be stored: %w", ErrFormat)

// Process returns the settings by which the kernel starts a program, the path
// of a file. The environment is as in execve(2); what has no "=" is left out.
func Process(program string, args, env []string, cwd string) Settings {
	var vars Settings
	for _, e := range env {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" {
			vars = append(vars, Setting{name, value})
		}
	}
	return Settings{{"program", program}, {"arguments", Vector(args)}, {"environment", vars}, {"cwd", cwd}}
}
