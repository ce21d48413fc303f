package advice

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel/prebuilt"
)

// Levels of a finding.
const (
	OK   = "OK"
	Warn = "WARN"
	Fail = "FAIL"
)

// Guests that are known, beside that of package prebuilt.
const (
	Linux = "linux"
	Nanos = "nanos"
)

// Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"`
	Detail string `json:"detail"`
	// Action is what to do about it; empty when all is well.
	Action string `json:"action,omitempty"`
}

// Image is what is judged.
type Image struct {
	Architecture string
	Args         []string // of the process, program first
	Env          []string
	User         string
	WorkingDir   string
	Root         Files
}

// Files are an image's; a *tree.Node is its own.
type Files interface {
	// Lookup follows a path from the root, as tree.Node.Lookup does. A
	// directory's entries need no nodes.
	Lookup(name string) (n *tree.Node, at string, err error)
}

const useLinux = "use the guest linux (--annotation io.containerd.uni.guest=linux)"

// Check judges an image for a guest. It returns at least one finding.
func Check(i Image, guest string) []Finding {
	c := checker{image: i, single: guest == Nanos}
	if i.Architecture != "amd64" {
		c.add("platform", Fail, "pull or build the image for linux/amd64", "architecture %s: machines are x86-64", i.Architecture)
		return c.findings
	}
	c.add("platform", OK, "", "linux/amd64")
	if guest == prebuilt.Name {
		c.carried()
		return c.findings
	}
	c.user()
	c.program()
	if c.single {
		c.setuid()
	}
	return c.findings
}

// Problem returns what certainly keeps the image's program from running; ok is
// false when nothing does. It reads the headers of the program and its libraries
// and no more, so that it can be asked before every start.
func Problem(i Image, guest string) (f Finding, ok bool) {
	c := checker{image: i, single: guest == Nanos, certain: true}
	c.program()
	n := slices.IndexFunc(c.findings, func(f Finding) bool { return f.Level == Fail })
	if n < 0 {
		return Finding{}, false
	}
	return c.findings[n], true
}

// String is the finding in one sentence.
func (f Finding) String() string {
	if f.Action == "" {
		return f.Detail
	}
	return f.Detail + ": " + f.Action
}

type checker struct {
	image    Image
	single   bool // the guest runs a single process
	certain  bool // only what certainly fails is asked for
	findings []Finding
}

func (c *checker) add(check, level, action, format string, args ...any) {
	c.findings = append(c.findings, Finding{check, level, fmt.Sprintf(format, args...), action})
}

// user checks that the process's user exists, and is one the guest can be.
func (c *checker) user() {
	name, group, _ := strings.Cut(c.image.User, ":")
	for _, w := range []struct{ what, name, file string }{{"user", name, "/etc/passwd"}, {"group", group, "/etc/group"}} {
		if _, err := strconv.ParseUint(w.name, 10, 32); err == nil || w.name == "" {
			continue
		}
		if !hasLine(c.text(w.file), w.name) {
			c.add("user", Fail, "give a number instead", "%s %q is not in the image's %s", w.what, w.name, w.file)
			return
		}
	}
	switch {
	case name == "" || name == "0" || name == "root":
		c.add("user", OK, "", "root")
	case c.single:
		c.add("user", Warn, useLinux+" where the program must not be root", "user %s: nanos has no users, the program runs as root", c.image.User)
	default:
		c.add("user", OK, "", "%s", c.image.User)
	}
}

// hasLine says whether a file such as /etc/passwd has an entry.
func hasLine(text, name string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+":") {
			return true
		}
	}
	return false
}

// maxText bounds a text file that is read, in bytes.
const maxText = 1 << 20

// text returns a small file's contents, nothing when there is none.
func (c *checker) text(name string) string {
	n, _, err := c.image.Root.Lookup(name)
	if err != nil || !n.IsFile() {
		return ""
	}
	return string(head(n, maxText))
}

// head returns up to limit bytes of a file's start.
func head(n *tree.Node, limit int64) []byte {
	if n.Data == nil {
		return nil
	}
	f, err := n.Data.Open()
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, min(limit, n.Size))
	got, _ := f.ReadAt(b, 0) // what cannot be read is not there
	return b[:got]
}

// defaultPath is what runtimes take without a PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (i Image) env(name string) string {
	for _, e := range slices.Backward(i.Env) {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}

// find returns the file that a program's name means, and its path without
// symbolic links.
func (c *checker) find(name string) (*tree.Node, string, error) {
	n, at, _, err := c.image.find(name)
	return n, at, err
}

func (i Image) find(name string) (n *tree.Node, at, full string, err error) {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join("/", i.WorkingDir, name)
		}
		n, at, err = i.Root.Lookup(name)
		return n, at, name, err
	}
	for dir := range strings.SplitSeq(cmp.Or(i.env("PATH"), defaultPath), ":") {
		full = path.Join("/", dir, name)
		n, at, err := i.Root.Lookup(full)
		var absent unix.Errno
		switch {
		case err == nil && n.IsFile() && n.Mode&0o111 != 0:
			return n, at, full, nil
		case err != nil && !errors.As(err, &absent): // who knows
			return nil, "", "", err
		}
	}
	return nil, "", "", unix.ENOENT
}

// Program returns the path of the image's program: as it is named, where it is
// not found; nothing where none is named.
func (i Image) Program() string {
	if len(i.Args) == 0 || i.Args[0] == "" {
		return ""
	}
	_, _, full, _ := i.find(i.Args[0])
	return cmp.Or(full, i.Args[0])
}

// Missing says that the image's program is certainly not among its files. A
// process without PATH has its working directory and no default, unlike an image
// that a runtime has yet to complete.
func (i Image) Missing() bool {
	if len(i.Args) == 0 || i.Args[0] == "" {
		return false
	}
	name := i.Args[0]
	if i.env("PATH") == "" && !strings.Contains(name, "/") {
		name = "./" + name
	}
	_, _, _, err := i.find(name)
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// maxScripts is how many interpreters may be scripts themselves, Linux's own
// limit.
const maxScripts = 5

// program checks what is started, through scripts to a binary.
func (c *checker) program() {
	if len(c.image.Args) == 0 || c.image.Args[0] == "" {
		c.add("program", Fail, "name one: behind the image in ctr run, or here", "the image has neither entry point nor command")
		return
	}
	name := c.image.Args[0]
	for range maxScripts {
		n, at, err := c.find(name)
		if err != nil {
			c.add("program", Fail, "correct the entry point or add the file", "%s: %v in the image", name, err)
			return
		}
		if !n.IsFile() || n.Mode&0o111 == 0 {
			c.add("program", Fail, "chmod +x it in the image", "%s (%s) is no executable file", name, at)
			return
		}
		if c.single && isShell(name, at) && (!c.certain || c.startsProgram(at, c.image.Args)) {
			c.add("program", Fail, "make the program itself the entry point (exec form), or "+useLinux,
				"%s is a shell, which starts other processes; nanos runs one", name)
			return
		}
		start := head(n, 512)
		if !strings.HasPrefix(string(start), "#!") {
			c.binary(n, at)
			return
		}
		if line, _, _ := strings.Cut(string(start), "\n"); strings.HasSuffix(line, "\r") {
			c.add("program", Fail, "save it with Unix line ends, for example with dos2unix",
				"%s has Windows line ends, and there is no interpreter %q", at, line[2:])
			return
		}
		next := interpreter(string(start))
		if next == "" {
			c.add("program", Fail, "correct its first line", "%s is a script without interpreter", at)
			return
		}
		if c.single && !isShell(next, "") {
			c.add("script", Fail, "make "+next+" the entry point, with "+at+" as its argument, or "+useLinux,
				"%s is a script, and nanos does not start %s for it", at, next)
		} else {
			c.add("script", OK, "", "%s is run by %s", at, next)
		}
		name = next
	}
	c.add("program", Fail, "name a binary as interpreter", "more than %d scripts run each other", maxScripts)
}

// interpreter returns the program of a script's first line; that of env is the
// one it looks up.
func interpreter(start string) string {
	line, _, _ := strings.Cut(start[2:], "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	if path.Base(words[0]) == "env" {
		for _, w := range words[1:] {
			if !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
				return w
			}
		}
	}
	return words[0]
}

// isShell says whether a program is one by its name; busybox is by the name it
// is called.
func isShell(name, at string) bool {
	shells := []string{"sh", "ash", "bash", "dash", "ksh", "mksh", "zsh", "fish"}
	return slices.Contains(shells, path.Base(name)) || slices.Contains(shells, path.Base(at))
}

// setuid counts programs that would change their user.
func (c *checker) setuid() {
	var first string
	count := 0
	root, ok := c.image.Root.(*tree.Node)
	if !ok {
		return
	}
	_ = root.Walk(func(at string, n *tree.Node) error { // never fails
		if n.IsFile() && n.Mode&0o6000 != 0 && n.Mode&0o111 != 0 {
			if count++; first == "" {
				first = at
			}
		}
		return nil
	})
	if count > 0 {
		c.add("setuid", Warn, useLinux+" if the program starts them", "%d setuid or setgid programs, such as %s: nanos has no users", count, first)
	}
}
