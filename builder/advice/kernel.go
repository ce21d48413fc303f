package advice

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/prebuilt"
)

// Default is the guest for an image that nobody chose one for.
func Default(i Image) string {
	if _, ok, err := Carried(i); ok || err != nil {
		return prebuilt.Name
	}
	return Linux
}

// Carried returns what an image itself says of what boots; ok is false for an ordinary
// one. Errors are those of prebuilt.Declared.
func Carried(i Image) (d prebuilt.Declaration, ok bool, err error) {
	return prebuilt.Declared(&specs.Spec{Process: i.process()}, i.open)
}

func (i Image) process() *specs.Process {
	return &specs.Process{Args: i.Args, Env: i.Env, Cwd: path.Join("/", i.WorkingDir)}
}

// open is a prebuilt.Find: as for the shim, no symbolic link leads to a file.
func (i Image) open(name string) (unikernel.ImageFile, int64, error) {
	n, at, err := i.Root.Lookup(name)
	switch {
	case err != nil:
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case at != path.Clean(name):
		return nil, 0, fmt.Errorf("%s: %w: a symbolic link leads there", name, unikernel.ErrInvalid)
	case !n.IsFile():
		return nil, 0, fmt.Errorf("%s: %w: it is no regular file", name, unikernel.ErrInvalid)
	case n.Data == nil:
		return nothing{strings.NewReader("")}, 0, nil
	}
	f, err := n.Data.Open()
	return f, n.Size, err
}

// nothing is an empty file.
type nothing struct{ *strings.Reader }

// Close implements io.Closer.
func (nothing) Close() error { return nil }

// Describe says what the kernel of an image is, see prebuilt.Describe.
func Describe(root Files, name string) (string, error) {
	n, _, err := root.Lookup(name)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w in the image", name, unix.ENOENT)
	case !n.IsFile():
		return "", fmt.Errorf("%s is no regular file", name)
	}
	return kernelOf(n)
}

func kernelOf(n *tree.Node) (string, error) {
	if n.Data == nil {
		return prebuilt.Describe(strings.NewReader(""))
	}
	f, err := n.Data.Open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	return prebuilt.Describe(f)
}

// carried judges an image that carries what boots.
func (c *checker) carried() {
	d, ok, err := Carried(c.image)
	switch {
	case err != nil:
		c.add("kernel", Fail, "build the image for QEMU, or correct what it says", "%v", err)
		return
	case !ok:
		c.add("kernel", Fail, "put /uni.json into the image, or name what boots by annotations (io.containerd.uni.kernel=/PATH/IN/IMAGE)",
			"the image does not say what boots")
		return
	}
	if d.Kernel == "" {
		c.add("kernel", OK, "", "none: the disk boots by the BIOS, by %s", d.Source)
	} else if what, err := Describe(c.image.Root, d.Kernel); err != nil {
		c.add("kernel", Fail, "put a kernel for QEMU there", "%s, by %s: %v", d.Kernel, d.Source, err)
	} else {
		c.add("kernel", OK, "", "%s, by %s: %s", d.Kernel, d.Source, what)
	}
	for _, f := range []struct{ check, name string }{{"initrd", d.Initrd}, {"disk", d.Disk}} {
		if f.name == "" {
			continue
		}
		if n, _, err := c.image.Root.Lookup(f.name); err != nil || !n.IsFile() {
			c.add(f.check, Fail, "add it to the image, or leave it out of "+d.Source, "there is no file %s in the image", f.name)
		} else {
			c.add(f.check, OK, "", "%s", f.name)
		}
	}
	words, err := prebuilt.New(d.Config).Cmdline(unikernel.App{Spec: &specs.Spec{Process: c.image.process()}})
	if err != nil {
		c.add("cmdline", Fail, "correct it in "+d.Source, "%v", err)
		return
	}
	c.add("cmdline", OK, "", "without a network: %s", strings.Join(words, " "))
}

// isKernel finds a kernel in a program's place, and says how it boots.
func (c *checker) isKernel(n *tree.Node, at string) bool {
	what, err := kernelOf(n)
	if err != nil {
		return false
	}
	c.add("program", Fail, fmt.Sprintf("boot it, by the annotation io.containerd.uni.kernel=%s, or say so in the image (/uni.json: {\"kernel\": %[1]q})", at),
		"%s is a kernel and no program (%s)", at, what)
	return true
}
