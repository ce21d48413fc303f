package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"containerd-shim-uni/config"
)

func configCommand(path *string) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show and check the configuration"}
	group(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use: "show", Short: "Print every key with the value in force", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := config.Load(*path)
				if err != nil {
					return explain(cmd, err)
				}
				_, err = fmt.Fprint(cmd.OutOrStdout(), c.TOML())
				return err
			},
		},
		&cobra.Command{
			Use: "check [FILE]", Short: "Say what is wrong in a configuration file, a line each", Args: cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				file := *path
				if len(args) > 0 {
					file = args[0]
				}
				if _, err := config.Load(file); err != nil {
					return explain(cmd, err)
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), config.Path(file)+": ok")
				return err
			},
		},
		&cobra.Command{
			Use: "default", Short: "Print the documented default file", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprint(cmd.OutOrStdout(), config.DefaultFile())
				return err
			},
		},
	)
	return cmd
}

// explain prints what is wrong in a file in the form "file:line: text", which
// editors understand. Other errors are returned as they are.
func explain(cmd *cobra.Command, err error) error {
	var e *config.Error
	if !errors.As(err, &e) {
		return err
	}
	for _, p := range e.Problems {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s:%d: %s\n", e.File, p.Line, p.Text)
	}
	return errSilent
}
