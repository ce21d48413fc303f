package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"containerd-shim-uni/builder/advice"
	"containerd-shim-uni/builder/image"
	"containerd-shim-uni/builder/qcow2"
	"containerd-shim-uni/config"
)

// Formats of a disk.
const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

// buildFlags are what uni build was told.
type buildFlags struct {
	imageFlags
	out, guest, format, kernel, free string
}

func buildCommand(load loadConfig) *cobra.Command {
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "build IMAGE -o FILE",
		Short: "Make the disk of an image",
		Long: "Make the disk that a guest boots from an image. It needs no root, no containerd and no mounts,\n" +
			"and the same image gives the same bytes.\n\n" +
			"A disk for nanos holds a kernel too, and starts the image's program by itself:\n\n" +
			"  qemu-system-x86_64 -m 256 -nographic -drive file=disk.img,format=raw,if=virtio\n\n" +
			"What speaks against that is said at once, as by uni check-image.\n\n" + imageHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, err := flags.writer(cmd, load)
			if err != nil {
				return err
			}
			// Beside the result, where there is room for it.
			o := flags.options(cmd, filepath.Dir(flags.out))
			i, err := image.Open(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			stop := showProgress(cmd.ErrOrStderr(), o.Progress)
			m, warnings, err := flags.build(cmd.Context(), i, write)
			stop()
			if err = errors.Join(err, i.Close()); err != nil {
				return err
			}
			for _, w := range warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "uni: warning: %s: %s: %s\n", w.Check, w.Detail, w.Action)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s of files, image %s\n", flags.out, flags.format, human(m.Size), m.Image)
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVarP(&flags.out, "output", "o", "", "`FILE` to write, atomically")
	cmd.Flags().StringVar(&flags.guest, "guest", config.GuestLinux, "`GUEST` that boots it: linux or nanos")
	cmd.Flags().StringVar(&flags.format, "format", formatRaw, "`FORMAT` of the disk: raw or qcow2")
	cmd.Flags().StringVar(&flags.kernel, "kernel", "", "`DIR` with boot.img and kernel.img, for nanos (default nanos.kernel of the configuration)")
	cmd.Flags().StringVar(&flags.free, "free", "64MiB", "`SIZE` that the guest can write to this very disk, for nanos; it takes no space before")
	_ = cmd.MarkFlagRequired("output") // the flag is there
	return cmd
}

// diskWriter writes an image's files as a disk. It says what will not work.
type diskWriter func(ctx context.Context, i *image.Image, t *image.Tree, f *os.File) (image.Manifest, []advice.Finding, error)

// writer checks the flags and returns what writes the disk of the guest.
func (b *buildFlags) writer(cmd *cobra.Command, load loadConfig) (diskWriter, error) {
	if b.format != formatRaw && b.format != formatQcow2 {
		return nil, fmt.Errorf("--format %q is not one of: raw, qcow2", b.format)
	}
	switch b.guest {
	case config.GuestLinux:
		for _, name := range []string{"kernel", "free"} {
			if cmd.Flags().Changed(name) {
				return nil, fmt.Errorf("--%s is for --guest nanos", name)
			}
		}
		return func(ctx context.Context, i *image.Image, t *image.Tree, f *os.File) (image.Manifest, []advice.Finding, error) {
			m, err := i.Write(ctx, t, f)
			return m, nil, err
		}, nil
	case config.GuestNanos:
		boot, err := b.boot(load)
		return func(ctx context.Context, i *image.Image, t *image.Tree, f *os.File) (image.Manifest, []advice.Finding, error) {
			return writeBoot(ctx, i, t, boot, f)
		}, err
	}
	if b.guest == config.GuestImage {
		return nil, errors.New("--guest image: there is nothing to build, an image that carries a kernel runs as it is: uni check-image --guest image says whether it does, and uni push is for disks of the other guests")
	}
	return nil, fmt.Errorf("--guest %q is not one of: linux, nanos", b.guest)
}

// boot reads the kernel.
func (b *buildFlags) boot(load loadConfig) (boot image.Boot, err error) {
	if boot.Free, err = config.ParseSize(b.free); err != nil {
		return boot, fmt.Errorf("--free: %w", err)
	}
	dir := b.kernel
	if dir == "" {
		c, err := load()
		if err != nil {
			return boot, err
		}
		dir = c.Nanos.Kernel
	}
	const missing = "%w: a disk for nanos holds a kernel: run uni kernel install nanos, or name the directory that has one with --kernel"
	if boot.Loader, err = os.ReadFile(filepath.Join(dir, "boot.img")); err != nil {
		return boot, fmt.Errorf(missing, err)
	}
	if boot.Kernel, err = os.ReadFile(filepath.Join(dir, "kernel.img")); err != nil {
		return boot, fmt.Errorf(missing, err)
	}
	return boot, nil
}

// writeBoot writes a disk that starts the image's program.
func writeBoot(ctx context.Context, i *image.Image, t *image.Tree, b image.Boot, f *os.File) (image.Manifest, []advice.Finding, error) {
	process := adviceOf(i.Manifest(), t.Root, nil)
	warnings := slices.DeleteFunc(advice.Check(process, advice.Nanos), func(f advice.Finding) bool { return f.Level == advice.OK })
	b.Program = process.Program()
	m, err := i.WriteBoot(ctx, t, b, f)
	return m, warnings, err
}

// build writes an image's disk, whole or not at all.
func (b *buildFlags) build(ctx context.Context, i *image.Image, write diskWriter) (m image.Manifest, warnings []advice.Finding, err error) {
	t, err := i.Flatten(ctx)
	if err != nil {
		return m, nil, err
	}
	err = writeFile(b.out, func(f *os.File) error {
		if b.format == formatRaw {
			m, warnings, err = write(ctx, i, t, f)
			return err
		}
		return withTemp(filepath.Dir(b.out), func(raw *os.File) error {
			if m, warnings, err = write(ctx, i, t, raw); err != nil {
				return err
			}
			st, err := raw.Stat()
			if err != nil {
				return err
			}
			return qcow2.Convert(ctx, f, raw, st.Size())
		})
	})
	return m, warnings, errors.Join(err, t.Close())
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
