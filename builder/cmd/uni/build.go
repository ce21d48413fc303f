package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"containerd-shim-uni/builder/image"
	"containerd-shim-uni/builder/qcow2"
)

// Formats of a disk.
const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

func buildCommand() *cobra.Command {
	var flags imageFlags
	var out, guest, format string
	cmd := &cobra.Command{
		Use:   "build IMAGE -o FILE",
		Short: "Make the disk of an image",
		Long: "Make the disk that a guest boots from an image. It needs no root, no containerd and no mounts,\n" +
			"and the same image gives the same bytes. " + imageHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if guest != "linux" {
				return fmt.Errorf("--guest %q: linux is the only guest whose disks are made", guest)
			}
			if format != formatRaw && format != formatQcow2 {
				return fmt.Errorf("--format %q is not one of: raw, qcow2", format)
			}
			// Beside the result, where there is room for it.
			o := flags.options(cmd, filepath.Dir(out))
			i, err := image.Open(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			stop := showProgress(cmd.ErrOrStderr(), o.Progress)
			m, err := writeDisk(cmd.Context(), i, out, format)
			stop()
			if err = errors.Join(err, i.Close()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s of files, image %s\n", out, format, human(m.Size), m.Image)
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write, atomically")
	cmd.Flags().StringVar(&guest, "guest", "linux", "`GUEST` that boots it: linux")
	cmd.Flags().StringVar(&format, "format", formatRaw, "`FORMAT` of the disk: raw or qcow2")
	_ = cmd.MarkFlagRequired("output") // the flag is there
	return cmd
}

// writeDisk writes an image's disk to path, whole or not at all.
func writeDisk(ctx context.Context, i *image.Image, path, format string) (m image.Manifest, err error) {
	err = writeFile(path, func(f *os.File) error {
		if format == formatRaw {
			m, err = image.Build(ctx, i, f)
			return err
		}
		return withTemp(filepath.Dir(path), func(raw *os.File) error {
			if m, err = image.Build(ctx, i, raw); err != nil {
				return err
			}
			st, err := raw.Stat()
			if err != nil {
				return err
			}
			return qcow2.Convert(ctx, f, raw, st.Size())
		})
	})
	return m, err
}

// writeFile writes a file under another name, syncs it and renames it.
func writeFile(path string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// withTemp calls use with a file that has no name.
func withTemp(dir string, use func(*os.File) error) error {
	f, err := os.CreateTemp(dir, ".uni-*.tmp")
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(f.Name()), use(f), f.Close())
}
