package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"containerd-shim-uni/shim/status"
)

func logsCommand(load loadConfig) *cobra.Command {
	var lines int
	var console bool
	cmd := &cobra.Command{
		Use:   "logs --console CONTAINER",
		Short: "Print the last lines of a machine's console",
		Long: "Print the last lines of the console of the machine that a container or a pod is in: what its kernel says. Of the\n" +
			"guests nanos and image that is the program's output, too. The output of a container is containerd's client's to show:\n" +
			"nerdctl logs, kubectl logs.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !console {
				return errors.New("the output of a container is with the client that started it (nerdctl logs, kubectl logs); --console prints the machine's console")
			}
			if lines < 1 {
				return errors.New("--lines must be positive")
			}
			found, err := sandboxes(cmd, load, psOptions{all: true}, args)
			if err != nil {
				return err
			}
			if len(found) > 1 {
				return fmt.Errorf("%q is the beginning of several ids: write more of it", args[0])
			}
			text, err := status.Console(cmd.Context(), found[0].Dir, lines)
			for _, line := range text {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&console, "console", false, "print the machine's console")
	cmd.Flags().IntVar(&lines, "lines", 100, "how many of the last `LINES`; 16 KiB are kept")
	return cmd
}
