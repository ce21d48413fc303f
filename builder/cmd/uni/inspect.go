package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/advice"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/shim/status"
)

// inspection is what uni inspect prints as JSON. Sizes are bytes.
type inspection struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Format, DiskSize, Filesystem and UUID are of a disk and of an artefact.
	Format     string `json:"format,omitempty"`
	DiskSize   int64  `json:"diskSize,omitempty"`
	Filesystem string `json:"filesystem,omitempty"`
	// Version is the file system's format, 0 where that has none.
	Version int    `json:"version,omitempty"`
	UUID    string `json:"uuid,omitempty"`
	Label   string `json:"label,omitempty"`
	// Kernel is the digest of the kernel on the disk, Boot that of its boot
	// loader, Program the path of what it starts by itself.
	Kernel  string `json:"kernel,omitempty"`
	Boot    string `json:"boot,omitempty"`
	Program string `json:"program,omitempty"`
	// Digest, Layers are of an image.
	Digest string `json:"digest,omitempty"`
	Layers int    `json:"layers,omitempty"`

	Image        string   `json:"image,omitempty"`
	Guest        string   `json:"guest,omitempty"`
	OS           string   `json:"os,omitempty"`
	Architecture string   `json:"architecture,omitempty"`
	Entrypoint   []string `json:"entrypoint,omitempty"`
	Cmd          []string `json:"cmd,omitempty"`
	Env          []string `json:"env,omitempty"`
	WorkingDir   string   `json:"workingDir,omitempty"`
	User         string   `json:"user,omitempty"`

	// Boots is what an image says of what boots of it.
	Boots *boots `json:"boots,omitempty"`

	Counts counts     `json:"counts"`
	Files  []fileInfo `json:"files,omitempty"`
}

// boots is what the guest "image" boots.
type boots struct {
	Source  string `json:"source"`
	Kernel  string `json:"kernel,omitempty"`
	Kind    string `json:"kind,omitempty"` // of the kernel: its protocol, and whose it is
	Initrd  string `json:"initrd,omitempty"`
	Disk    string `json:"disk,omitempty"`
	Cmdline string `json:"cmdline,omitempty"` // a template
	// Error says why it does not.
	Error string `json:"error,omitempty"`
}

// bootsOf is nil for an ordinary image.
func bootsOf(i advice.Image) *boots {
	d, ok, err := advice.Carried(i)
	if err != nil {
		return &boots{Error: err.Error()}
	}
	if !ok {
		return nil
	}
	b := &boots{Source: d.Source, Kernel: d.Kernel, Initrd: d.Initrd, Disk: d.Disk, Cmdline: d.Cmdline}
	if d.Kernel != "" {
		if b.Kind, err = advice.Describe(i.Root, d.Kernel); err != nil {
			b.Error = err.Error()
		}
	}
	return b
}

// print adds lines to an inspection's.
func (b *boots) print(line func(key, format string, args ...any)) {
	if b == nil {
		return
	}
	if b.Error != "" {
		line("boots", "not: %s", b.Error)
		return
	}
	line("boots", "%s", strings.TrimSpace(fmt.Sprintf("%s %s, by %s", cmp.Or(b.Kernel, b.Disk), cmp.Or(b.Kind, "by the BIOS"), b.Source)))
	line("initrd", "%s", b.Initrd)
	line("disk", "%s", b.Disk)
	line("command line", "%s", b.Cmdline)
}

type counts struct {
	Files       int   `json:"files"`
	Directories int   `json:"directories"`
	Links       int   `json:"symlinks"`
	Others      int   `json:"others"`
	Bytes       int64 `json:"bytes"`
}

type fileInfo struct {
	Path   string            `json:"path"`
	Mode   string            `json:"mode"`
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`
	Time   time.Time         `json:"time"`
	Links  uint32            `json:"links,omitempty"`
	Target string            `json:"target,omitempty"`
	Device string            `json:"device,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"` // base64
}

func inspectCommand(load loadConfig) *cobra.Command {
	var flags imageFlags
	var output string
	var list bool
	cmd := &cobra.Command{
		Use:   "inspect DISK|IMAGE|CONTAINER",
		Short: "Show what is in a disk or an image, or all that is known of a container",
		Long: "Show what is in a disk, made by uni build or of the cache, or in an image. Of an artefact, an image that\n" +
			"uni push made, it is the disk that is shown. Of a container or a pod that is there, by its id or its beginning, it is\n" +
			"what uni ps -o json prints. " + imageHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q is not one of: text, json", output)
			}
			if running(cmd, load, args[0]) {
				return psOnce(cmd.OutOrStdout(), psOptions{output: "json"}, func() ([]status.Sandbox, error) {
					return sandboxes(cmd, load, psOptions{all: true}, args)
				})
			}
			c, err := openContent(cmd, args[0], flags.options(cmd, ""))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.close()) }()
			i := c.inspect(args[0], list)
			if done, err := printJSON(cmd.OutOrStdout(), output, i); done {
				return err
			}
			return i.print(cmd.OutOrStdout())
		},
	}
	flags.add(cmd)
	outputFlag(cmd, &output)
	cmd.Flags().BoolVarP(&list, "list", "l", false, "list the files")
	return cmd
}

// running says whether a name is rather a container's or pod's than that of a file or
// an image: there is such a one, and no such file.
func running(cmd *cobra.Command, load loadConfig, name string) bool {
	if _, err := os.Lstat(name); err == nil || strings.ContainsAny(name, ":/") || name == "-" {
		return false
	}
	found, err := sandboxes(cmd, load, psOptions{all: true}, []string{name})
	return err == nil && len(found) > 0
}

// inspect collects what there is to say.
func (c *content) inspect(name string, list bool) inspection {
	i := inspection{Name: c.title(name), Kind: c.kind}
	if c.fs != nil {
		i.Format, i.DiskSize, i.Filesystem = c.format, c.diskSize, c.fs.Name
		i.Version, i.UUID, i.Label, i.Kernel, i.Program = c.fs.Version, c.fs.UUID, c.fs.Label, c.fs.Kernel, c.fs.Program
	}
	if c.image != nil {
		i.Digest, i.Layers = c.image.Digest, c.image.Layers()
	}
	if m, ok := c.process(); ok {
		i.Image, i.OS, i.Architecture = m.Image, m.OS, m.Architecture
		i.Entrypoint, i.Cmd, i.Env, i.WorkingDir, i.User = m.Config.Entrypoint, m.Config.Cmd, m.Config.Env, m.Config.WorkingDir, m.Config.User
		if c.manifest != nil {
			i.Guest, i.Boot = m.Guest, m.Boot
		}
		if c.kind == "image" {
			i.Boots = bootsOf(adviceOf(m, c.root, nil))
		}
	}
	seen := map[*tree.Node]bool{}
	_ = c.root.Walk(func(path string, n *tree.Node) error { // never fails
		if list {
			i.Files = append(i.Files, newFileInfo(path, n))
		}
		if !seen[n] {
			i.Counts.add(n)
		}
		if n.Links > 1 {
			seen[n] = true
		}
		return nil
	})
	return i
}

func (c *counts) add(n *tree.Node) {
	switch {
	case n.IsFile():
		c.Files++
		c.Bytes += n.Size
	case n.IsDir():
		c.Directories++
	case n.IsLink():
		c.Links++
	default:
		c.Others++
	}
}

func newFileInfo(path string, n *tree.Node) fileInfo {
	f := fileInfo{
		Path: path, Mode: modeString(n.Mode), UID: n.UID, GID: n.GID, Size: n.Size,
		Time: time.Unix(n.Mtime, int64(n.MtimeNsec)).UTC(), Target: n.Target,
	}
	if n.Links > 1 {
		f.Links = n.Links
	}
	if n.IsDevice() {
		f.Device = fmt.Sprintf("%d:%d", n.Major, n.Minor)
	}
	for _, x := range n.Xattrs {
		if f.Xattrs == nil {
			f.Xattrs = map[string][]byte{}
		}
		f.Xattrs[x.Name] = []byte(x.Value)
	}
	return f
}

// modeString writes a mode as ls does.
func modeString(mode uint32) string {
	types := map[uint32]string{unix.S_IFDIR: "d", unix.S_IFLNK: "l", unix.S_IFCHR: "c", unix.S_IFBLK: "b", unix.S_IFIFO: "p", unix.S_IFSOCK: "s"}
	kind := types[mode&unix.S_IFMT]
	if kind == "" {
		kind = "-"
	}
	s := []byte(kind + fs.FileMode(mode & 0o777).String()[1:])
	for _, special := range []struct {
		bit  uint32
		at   int
		char byte
	}{{unix.S_ISUID, 3, 's'}, {unix.S_ISGID, 6, 's'}, {unix.S_ISVTX, 9, 't'}} {
		switch {
		case mode&special.bit == 0:
		case s[special.at] == 'x':
			s[special.at] = special.char
		default:
			s[special.at] = special.char - 'a' + 'A'
		}
	}
	return string(s)
}

// print writes the inspection as text.
func (i inspection) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(key, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != "" && text != "[]" {
			fmt.Fprintf(t, "%s:\t%s\n", key, text)
		}
	}
	line(i.Kind, "%s", i.Name)
	if i.Format != "" {
		line("format", "%s, %s", i.Format, human(i.DiskSize))
		version := ""
		if i.Version > 0 {
			version = fmt.Sprintf(" version %d", i.Version)
		}
		line("filesystem", "%s%s, UUID %s, label %q", i.Filesystem, version, i.UUID, i.Label)
	} else {
		line("layers", "%d", i.Layers)
	}
	line("guest", "%s", i.Guest)
	line("kernel", "%s", i.Kernel)
	line("boot loader", "%s", i.Boot)
	line("program", "%s", i.Program)
	i.Boots.print(line)
	line("digest", "%s", i.Digest)
	line("image", "%s", i.Image)
	line("platform", "%s", strings.Trim(i.OS+"/"+i.Architecture, "/"))
	line("entrypoint", "%q", i.Entrypoint)
	line("cmd", "%q", i.Cmd)
	line("cwd", "%s", i.WorkingDir)
	line("user", "%s", i.User)
	for _, e := range i.Env {
		line("env", "%q", e)
	}
	line("files", "%d files of %s, %d directories, %d symlinks, %d others",
		i.Counts.Files, human(i.Counts.Bytes), i.Counts.Directories, i.Counts.Links, i.Counts.Others)
	if err := t.Flush(); err != nil {
		return err
	}
	return printFiles(w, i.Files)
}

func printFiles(w io.Writer, files []fileInfo) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range files {
		size := fmt.Sprint(f.Size)
		if f.Device != "" {
			size = f.Device
		}
		target := ""
		if f.Target != "" {
			target = " -> " + printable(f.Target)
		}
		fmt.Fprintf(t, "%s\t%d:%d\t%s\t%s\t%s%s\n", f.Mode, f.UID, f.GID, size, f.Time.Format(time.RFC3339), printable(f.Path), target)
	}
	return t.Flush()
}

// printable quotes a name that would not stay on its line, or move the cursor.
func printable(s string) string {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}
