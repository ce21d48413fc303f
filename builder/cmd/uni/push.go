package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"containerd-shim-uni/builder/image"
)

func pushCommand() *cobra.Command {
	var plainHTTP bool
	cmd := &cobra.Command{
		Use:   "push DISK REFERENCE",
		Short: "Store a disk in a registry",
		Long: "Store a disk that uni build made in a registry, as an image of the artefact type\n" + image.ArtifactType +
			".\ncontainerd pulls it like any image, and the runtime runs it without converting anything: the guest is\n" +
			"the disk's. The same disk gives the same digest. Credentials come from docker's configuration.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := openDisk(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c == nil {
				return fmt.Errorf("%s is no disk of uni build", args[0])
			}
			defer func() { err = errors.Join(err, c.close()) }()
			if c.manifest == nil {
				return fmt.Errorf("%s: %w: it was not made by uni build", args[0], image.ErrNoManifest)
			}
			o := image.Options{PlainHTTP: plainHTTP, Progress: &image.Progress{}}
			stop := showProgress(cmd.ErrOrStderr(), o.Progress)
			digest, err := image.Push(cmd.Context(), image.Disk{File: c.file, Format: c.format, Manifest: *c.manifest, Root: c.root}, args[1], o)
			stop()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[1], digest)
			return err
		},
	}
	cmd.Flags().BoolVar(&plainHTTP, "plain-http", false, "talk to the registry without TLS")
	return cmd
}

func pullCommand() *cobra.Command {
	var plainHTTP bool
	var out string
	cmd := &cobra.Command{
		Use:   "pull REFERENCE -o FILE",
		Short: "Fetch a disk that uni push stored",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := image.Options{PlainHTTP: plainHTTP, TempDir: filepath.Dir(out), Progress: &image.Progress{}}
			var format string
			var m image.Manifest
			stop := showProgress(cmd.ErrOrStderr(), o.Progress)
			err := writeFile(out, func(f *os.File) (err error) {
				format, m, err = image.Pull(cmd.Context(), f, args[0], o)
				return err
			})
			stop()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s of files, image %s\n", out, format, human(m.Size), m.Image)
			return err
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write, atomically")
	cmd.Flags().BoolVar(&plainHTTP, "plain-http", false, "talk to the registry without TLS")
	_ = cmd.MarkFlagRequired("output") // the flag is there
	return cmd
}
