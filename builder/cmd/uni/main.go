// Command uni is what an operator of the runtime io.containerd.uni.v1 uses on
// a host: it checks the host and the configuration, shows and empties the cache,
// installs kernels, and makes, shows, judges and pushes disks of images. It does
// not run containers, containerd does, and it does not need libvirt, so that it
// can tell what is missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"containerd-shim-uni/config"
)

// version is set by the build with -ldflags "-X main.version=…".
var version = "unknown"

// loadConfig reads the configuration that the command line names.
type loadConfig func() (config.Config, error)

// errSilent ends the command with status 1 after it said why.
var errSilent = errors.New("failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		if !errors.Is(err, errSilent) {
			fmt.Fprintln(os.Stderr, "uni:", err)
		}
		os.Exit(1)
	}
}

// run executes one command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var configPath string
	load := func() (config.Config, error) { return config.Load(configPath) }

	root := &cobra.Command{
		Use:           "uni",
		Short:         "Operate the runtime that runs containers as unikernel virtual machines",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	group(root)
	root.PersistentFlags().StringVar(&configPath, "config", "",
		"configuration `FILE` (default $"+config.EnvPath+", else "+config.DefaultPath+")")
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(templateCommand(load))
	root.AddCommand(checkCommand(&configPath), cacheCommand(load), kernelCommand(load), configCommand(&configPath), versionCommand(load),
		psCommand(load), logsCommand(load), buildCommand(load), inspectCommand(load), checkImageCommand(), pushCommand(), pullCommand(), nodeCommand())
	return root.ExecuteContext(ctx)
}

// group makes a command that only has commands refuse other words.
func group(cmd *cobra.Command) {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}
