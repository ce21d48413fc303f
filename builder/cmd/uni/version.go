package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"containerd-shim-uni/builder/kernels"
	"containerd-shim-uni/config"
)

// versions are what "uni version" tells: what this is and what it was made from.
type versions struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	// Linux is nil where nothing is recorded, as for a kernel of the user's own.
	Linux *kernels.Record `json:"linux,omitempty"`
	// LinuxProblem says why the installed guest is not the recorded one.
	LinuxProblem string `json:"linux_problem,omitempty"`
	// Nanos is the installed default.
	Nanos *kernels.Manifest `json:"nanos,omitempty"`
}

func versionCommand(load func() (config.Config, error)) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version; with -o json what the guests were made from", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == "text" {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "uni", version)
				return err
			}
			c, err := load()
			if err != nil {
				return explain(cmd, err)
			}
			_, err = printJSON(cmd.OutOrStdout(), output, collectVersions(c))
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func collectVersions(c config.Config) versions {
	v := versions{Version: version, Go: runtime.Version()}
	record, err := kernels.ReadRecord(c.Linux.Kernel)
	if err == nil {
		v.Linux = &record
		err = errors.Join(record.Kernel.Check(c.Linux.Kernel), record.Initrd.Check(c.Linux.Initrd))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.LinuxProblem = err.Error()
	}
	installed, err := kernels.New(c.Storage.NanosDir(), kernels.Options{}).List()
	for _, k := range installed {
		if err == nil && k.Default && k.Err == nil {
			v.Nanos = &k.Manifest
		}
	}
	return v
}

// checkSource is about the source of the guest's kernel: whether it is the one that
// was installed, and as new as the distribution's.
func checkSource(ctx context.Context, h host, c config.Config) finding {
	record, err := kernels.ReadRecord(h.root + c.Linux.Kernel)
	if errors.Is(err, fs.ErrNotExist) {
		return ok("of the kernel %s nothing is recorded: it is not of make guest", c.Linux.Kernel)
	}
	if err == nil {
		err = errors.Join(record.Kernel.Check(h.root+c.Linux.Kernel), record.Initrd.Check(h.root+c.Linux.Initrd))
	}
	if err != nil {
		return warn("run make install, or if that is meant remove guest.json beside it", "the guest is not the one that was installed: %v", err)
	}
	source := record.Kernel.Source
	at := fmt.Sprintf("%s %s", source.Package, source.Version)
	if source.Version == "unknown" { // not of a package, see UNI_KERNEL_SOURCE
		return ok("%s with the SHA-256 %.12s…", source.Package, source.SHA256)
	}
	if h.find("dpkg") == "" || h.find("apt-cache") == "" {
		return ok("%s; the distribution's present one is not known without dpkg and apt-cache", at)
	}
	newest := h.newest(ctx, source.Package)
	if newest == "" {
		return ok("%s; the distribution's present one is not known (apt-get update)", at)
	}
	if _, err := h.output(ctx, h.find("dpkg"), "--compare-versions", source.Version, "lt", newest); err != nil {
		return ok("%s, as new as the distribution's", at) // status 1: it is not older
	}
	return warn("apt-get install "+source.Package+", then make guest install; containers that run keep theirs",
		"the guest's kernel is from %s, and the distribution has %s", at, newest)
}

// newest is the version of a package that the distribution has, as far as this host
// knows, empty for none.
func (h host) newest(ctx context.Context, name string) string {
	text, err := h.output(ctx, h.find("apt-cache"), "policy", name)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(text) {
		if version, found := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); found && version != "(none)" {
			return version
		}
	}
	return ""
}
