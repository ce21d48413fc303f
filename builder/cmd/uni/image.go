package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/image"
	"containerd-shim-uni/builder/qcow2"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
)

const imageHelp = `IMAGE is one of

  oci:DIR[:NAME]             a directory in the OCI layout
  oci-archive:FILE[:NAME]    a tar file of one, such as of ctr images export
  docker-archive:FILE[:NAME] what docker save writes
  docker://REFERENCE         an image in a registry
  -                          an archive from standard input

or, without a prefix, a file or directory if there is one of that name, else a
reference. Credentials come from docker's configuration (~/.docker/config.json,
$DOCKER_CONFIG). An image in containerd comes by a pipe:

  ctr images export - NAME | uni build - -o disk.img`

// imageFlags are common to the commands that take an image.
type imageFlags struct {
	platform  string
	plainHTTP bool
}

func (f *imageFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.platform, "platform", image.DefaultPlatform, "`OS/ARCH[/VARIANT]` to take from an index")
	cmd.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "talk to the registry without TLS")
}

func (f *imageFlags) options(cmd *cobra.Command, tempDir string) image.Options {
	return image.Options{Platform: f.platform, PlainHTTP: f.plainHTTP, TempDir: tempDir, Stdin: cmd.InOrStdin(), Progress: &image.Progress{}}
}

// showProgress keeps a line on w up to date if that is a terminal. p says how
// many bytes are done and how many there are. The returned function ends it.
func showProgress(w io.Writer, p interface{ Bytes() (done, total int64) }) (stop func()) {
	f, ok := w.(*os.File)
	if !ok || !isTerminal(f) {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				fmt.Fprint(f, "\r\x1b[K")
				return
			case <-tick.C:
				if read, total := p.Bytes(); total > 0 {
					fmt.Fprintf(f, "\r\x1b[K%s of %s", human(read), human(total))
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// content is a disk or an image, opened for reading.
type content struct {
	kind     string // "disk" or "image", or "artefact": an image that is a disk
	format   string // of a disk: "raw" or "qcow2"
	diskSize int64
	file     *os.File // of a disk
	fs       *diskFS
	manifest *image.Manifest // nil for a disk of others
	image    *image.Image
	root     *tree.Node
	close    func() error
}

// openContent opens what a command was given: a disk if it is a file that looks
// like one, else an image.
func openContent(cmd *cobra.Command, name string, o image.Options) (*content, error) {
	c, err := openDisk(cmd.Context(), name)
	if c != nil || err != nil {
		return c, err
	}
	i, err := image.Open(cmd.Context(), name, o)
	if err != nil {
		return nil, err
	}
	stop := showProgress(cmd.ErrOrStderr(), o.Progress)
	t, err := i.Flatten(cmd.Context())
	stop()
	if err != nil {
		return nil, errors.Join(err, i.Close())
	}
	closeImage := func() error { return errors.Join(t.Close(), i.Close()) }
	c, err = finishedDisk(cmd.Context(), t.Root)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), closeImage())
	}
	if c == nil {
		return &content{kind: "image", image: i, root: t.Root, close: closeImage}, nil
	}
	c.kind, c.image, c.close = "artefact", i, closeImage
	return c, nil
}

// finishedDisk reads the disk that an image's files are; nil if they are none.
func finishedDisk(ctx context.Context, root *tree.Node) (*content, error) {
	disk, info, ok, err := image.FinishedDisk(root)
	if !ok || err != nil {
		return nil, err
	}
	c := &content{}
	if err := c.readDisk(ctx, disk, info.Size); err != nil {
		return nil, err
	}
	if c.format != info.Format {
		return nil, fmt.Errorf("the disk is %s, not %s: %w", c.format, info.Format, unikernel.ErrInvalid)
	}
	return c, nil
}

// openDisk returns nil without an error for what is no disk.
func openDisk(ctx context.Context, name string) (_ *content, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil // image.Open says why
	}
	keep := false
	defer func() {
		if !keep {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, err
	}
	if !qcow2.IsImage(f) && !reader.Is(f) && !tfs.Is(f) {
		return nil, nil
	}
	c := &content{kind: "disk", file: f, close: f.Close}
	if err := c.readDisk(ctx, f, st.Size()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	keep = true
	return c, nil
}

// readDisk reads the disk in a file of size bytes: what is on it and its manifest.
func (c *content) readDisk(ctx context.Context, file io.ReaderAt, size int64) (err error) {
	disk := file
	c.format, c.diskSize = formatRaw, size
	if qcow2.IsImage(file) {
		q, err := qcow2.Open(file, size)
		if err != nil {
			return err
		}
		c.format, c.diskSize, disk = formatQcow2, q.Size(), q
	}
	if c.fs, c.root, err = readFS(ctx, disk, c.diskSize); err != nil {
		return err
	}
	m, err := image.ReadManifest(disk, c.diskSize)
	if err == nil {
		c.manifest = &m
	} else if errors.Is(err, image.ErrNoManifest) {
		err = nil
	}
	return err
}

// process is what an image or a disk says of its process.
func (c *content) process() (m image.Manifest, ok bool) {
	switch {
	case c.manifest != nil:
		return *c.manifest, true
	case c.image != nil:
		return c.image.Manifest(), true
	}
	return image.Manifest{}, false
}

// title is how the commands call an image.
func (c *content) title(name string) string {
	if c.image == nil {
		return name
	}
	return cmp.Or(c.image.Source, name)
}
