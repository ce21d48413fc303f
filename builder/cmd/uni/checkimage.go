package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"containerd-shim-uni/builder/advice"
	"containerd-shim-uni/builder/image"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/config"
)

func checkImageCommand() *cobra.Command {
	var flags imageFlags
	var output, guest string
	cmd := &cobra.Command{
		Use:   "check-image DISK|IMAGE [-- ARG...]",
		Short: "Say whether an image will run in a guest",
		Long: "Say whether an image's program will run in a guest, and what to do if not. Arguments replace the\n" +
			"image's command, as in ctr run and docker run. The status is 1 if anything failed. Nothing of the image\n" +
			"is run. " + imageHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if guest != "" && !slices.Contains(config.Guests(), guest) {
				return fmt.Errorf("--guest %q is not one of: %s", guest, strings.Join(config.Guests(), ", "))
			}
			findings, err := flags.checkImage(cmd, args[0], args[1:], guest)
			if err != nil {
				return err
			}
			return report(cmd.OutOrStdout(), output, findings)
		},
	}
	flags.add(cmd)
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&guest, "guest", "", "`GUEST` that shall run it: linux, nanos or image (default the disk's; image for an image that says what boots; else linux)")
	return cmd
}

func (f *imageFlags) checkImage(cmd *cobra.Command, name string, args []string, guest string) (_ []finding, err error) {
	c, err := openContent(cmd, name, f.options(cmd, ""))
	var wrong *image.PlatformError
	if errors.As(err, &wrong) {
		found := fail("pull or build the image for "+image.DefaultPlatform, "%v", wrong)
		found.Check = "platform"
		return []finding{found}, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	m, ok := c.process()
	if !ok {
		return nil, fmt.Errorf("%s: %w: only an image or a disk of uni build says what to run", name, image.ErrNoManifest)
	}
	var findings []finding
	judged := adviceOf(m, c.root, args)
	if guest == "" {
		guest = cmp.Or(m.Guest, advice.Default(judged))
	}
	for _, f := range advice.Check(judged, guest) {
		findings = append(findings, finding(f))
	}
	return findings, nil
}

// adviceOf is what is judged of an image or a disk. Arguments replace the
// image's command.
func adviceOf(m image.Manifest, root *tree.Node, args []string) advice.Image {
	if len(args) == 0 {
		args = m.Config.Cmd
	}
	return advice.Image{
		Architecture: m.Architecture, Args: slices.Concat(m.Config.Entrypoint, args), Env: m.Config.Env,
		User: m.Config.User, WorkingDir: m.Config.WorkingDir, Root: root,
	}
}
