package nanos

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// kernelFiles are made by the kernel itself, which halts when the root has one
// of these names already (register_special_files of Nanos' src/unix/special.c).
// Of /proc and /sys it makes all that there is.
var kernelFiles = []string{"/dev/null", "/dev/urandom"}

// mounts adds to a configuration what the specification mounts: bind mounts as
// copies, file systems in memory as directories where these do as well.
func (g *Guest) mounts(app unikernel.App, c *unikernel.BootConfig) error {
	left := int64(unikernel.MaxBootFiles)
	for _, s := range app.Shares {
		if err := g.bind(s, &left, c); err != nil {
			return err
		}
	}
	readOnlyRoot := app.Spec.Root != nil && app.Spec.Root.Readonly
	for _, m := range app.Spec.Mounts {
		if m.Type != "tmpfs" {
			continue
		}
		if err := tmpfs(m, readOnlyRoot, c); err != nil {
			return err
		}
	}
	return nil
}

// bind adds one bind mount. Regular files are copied into the root as long as
// left bytes of them are not used up; what else there is needs a disk.
func (g *Guest) bind(s unikernel.SharedMount, left *int64, c *unikernel.BootConfig) error {
	dst := path.Clean(s.Mount.Destination)
	readOnly := isReadOnly(s.Mount.Options)
	switch {
	case dst == "/":
		return fmt.Errorf("%w: a bind mount of %s over the root", unikernel.ErrInvalid, s.Mount.Source)
	case below(dst, "/proc") || below(dst, "/sys") || slices.Contains(kernelFiles, dst):
		return refuse(fmt.Sprintf("a %s of the kernel's own, over which nothing can be mounted, as asked for with %s", dst, s.Mount.Source))
	case !s.Dir && s.Size <= *left:
		*left -= s.Size
		c.Files = append(c.Files, unikernel.BootFile{Path: dst, Source: s.Mount.Source})
		return nil
	case below(dst, "/dev/shm"):
		// Memory that the containers of a pod share on a host; no machine can.
		c.Directories = append(c.Directories, dst)
		return nil
	case !readOnly && !g.cfg.CopyWritable:
		return refuseWritable(s)
	}
	c.Volumes = append(c.Volumes, unikernel.Volume{
		Path: dst, Source: s.Mount.Source, MaxSource: g.cfg.MaxVolume, ReadOnly: readOnly,
		Recursive: !slices.Contains(s.Mount.Options, "bind"), // "rbind", or type bind alone
	})
	return nil
}

func refuseWritable(s unikernel.SharedMount) error {
	what := "directory"
	if !s.Dir {
		what = "file, larger than the copies that a container can have,"
	}
	return fmt.Errorf("%w: the %s guest cannot write to the host's %s %s, bind-mounted at %s: mount it read-only (option ro), "+
		"use the guest \"linux\" (annotation io.containerd.uni.guest=linux), or give the container a copy, "+
		"where what it writes is discarded with it (nanos.writable_binds = \"copy\" in the configuration)",
		unikernel.ErrNotImplemented, Name, what, s.Mount.Source, s.Mount.Destination)
}

// tmpfs adds one file system in memory. The root can be written to and does not
// outlive the container: a directory of it does as well, if nothing is there.
// Below /dev, /proc and /sys the kernel has its own files. /run is in every
// specification, and images have files there: they stay visible, rather than
// have each container pay for a disk.
func tmpfs(m specs.Mount, readOnlyRoot bool, c *unikernel.BootConfig) error {
	dst := path.Clean(m.Destination)
	switch {
	case dst == "/":
		return fmt.Errorf("%w: a tmpfs over the root", unikernel.ErrInvalid)
	case dst == "/dev" || below(dst, "/proc") || below(dst, "/sys"):
		return nil
	case below(dst, "/dev"), dst == "/run" && !readOnlyRoot:
		c.Directories = append(c.Directories, dst)
		return nil
	case slices.Contains(m.Options, "tmpcopyup"): // with the image's files
		if readOnlyRoot {
			return refuse("a read-only root and no tmpcopyup, as asked for at " + dst)
		}
		c.Directories = append(c.Directories, dst)
		return nil
	}
	size, err := tmpfsSize(m.Options)
	if err != nil {
		return fmt.Errorf("%w: tmpfs at %s: %w", unikernel.ErrInvalid, dst, err)
	}
	c.Volumes = append(c.Volumes, unikernel.Volume{
		Path: dst, Size: size, ReadOnly: isReadOnly(m.Options), Spare: !readOnlyRoot,
	})
	return nil
}

// tmpfsSize returns the option "size" in bytes: a number with or without k, m
// or g (tmpfs(5)). 0 is none; a share of the host's RAM means nothing here.
func tmpfsSize(options []string) (size int64, err error) {
	for _, o := range options {
		text, ok := strings.CutPrefix(o, "size=")
		if !ok {
			continue
		}
		size = 0
		if strings.HasSuffix(text, "%") {
			continue
		}
		digits := strings.TrimRight(text, "kKmMgG")
		n, err := strconv.ParseInt(digits, 10, 64)
		shift := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30}
		by, known := shift[strings.ToLower(text[len(digits):])]
		if err != nil || n < 0 || !known || n > math.MaxInt64>>by {
			return 0, fmt.Errorf("option %q is no size", o)
		}
		size = n << by
	}
	return size, nil
}

// isReadOnly says what the last of the options that mention it says.
func isReadOnly(options []string) (ro bool) {
	for _, o := range options {
		switch o {
		case "ro", "rro":
			ro = true
		case "rw":
			ro = false
		}
	}
	return ro
}

// below says whether a clean path is dir or lies in it.
func below(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }
