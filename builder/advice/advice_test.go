package advice

import (
	"bytes"
	"cmp"
	"debug/elf"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// memory is a file's contents.
type memory []byte

func (m memory) Open() (tree.Content, error) {
	return struct {
		io.ReaderAt
		io.Closer
	}{bytes.NewReader(m), io.NopCloser(nil)}, nil
}

// files makes a tree: a value that starts with ">" is a symbolic link, names
// that end in "*" are executable, in "+" setuid.
func files(m map[string]string) *tree.Node {
	root := &tree.Node{Mode: unix.S_IFDIR | 0o755}
	for name, body := range m {
		mode := uint32(0o644)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o755
		} else if n, ok := strings.CutSuffix(name, "+"); ok {
			name, mode = n, 0o4755
		}
		n := &tree.Node{Mode: unix.S_IFREG | mode, Size: int64(len(body)), Links: 1}
		if len(body) > 0 {
			n.Data = memory(body)
		}
		if target, ok := strings.CutPrefix(body, ">"); ok {
			n = &tree.Node{Mode: unix.S_IFLNK | 0o777, Target: target, Links: 1}
		}
		dir := root
		parts := strings.Split(name, "/")
		for _, part := range parts[:len(parts)-1] {
			kid := dir.Child(part)
			if kid == nil {
				kid = &tree.Node{Mode: unix.S_IFDIR | 0o755}
				add(dir, part, kid)
			}
			dir = kid
		}
		add(dir, parts[len(parts)-1], n)
	}
	return root
}

func add(dir *tree.Node, name string, n *tree.Node) {
	dir.Entries = append(dir.Entries, tree.Entry{Name: name, Node: n})
	slices.SortFunc(dir.Entries, func(a, b tree.Entry) int { return cmp.Compare(a.Name, b.Name) })
}

const glibc = "/lib64/ld-linux-x86-64.so.2"

func TestCheck(t *testing.T) {
	static := string(program{}.bytes(t))
	dynamic := string(program{interp: glibc, needed: []string{"liba.so.1", "libc.so.6"}}.bytes(t))
	library := string(program{needed: []string{"libc.so.6"}}.bytes(t))
	arm := string(program{machine: elf.EM_AARCH64}.bytes(t))
	forks := string(program{interp: glibc, imports: []string{"printf", "fork", "execve"}}.bytes(t))
	base := map[string]string{"lib64/ld-linux-x86-64.so.2": static, "lib/x86_64-linux-gnu/libc.so.6": library}
	tests := []struct {
		name  string
		image Image
		files map[string]string
		guest string
		want  string // "level check: part of the text" of what is not OK
	}{
		{"static", Image{Args: []string{"/app"}}, map[string]string{"app*": static}, Nanos, ""},
		{"by PATH", Image{Args: []string{"app"}, Env: []string{"PATH=/no:/opt"}}, map[string]string{"opt/app*": static}, Linux, ""},
		{"by the usual PATH", Image{Args: []string{"app"}}, map[string]string{"usr/bin/app*": static}, Linux, ""},
		{"relative", Image{Args: []string{"./app"}, WorkingDir: "/opt"}, map[string]string{"opt/app*": static}, Linux, ""},
		{"through links", Image{Args: []string{"/bin/app"}}, map[string]string{"bin": ">usr/bin", "usr/bin/app": ">/opt/../opt/x", "opt/x*": static}, Linux, ""},
		{"libraries", Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic, "lib/x86_64-linux-gnu/liba.so.1": library}, Linux, ""},
		{"libraries by ld.so.conf", Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic, "etc/ld.so.conf": "# x\ninclude /etc/ld.so.conf.d/*.conf\n",
			"etc/ld.so.conf.d/a.conf": "/opt/lib # y\n", "opt/lib/liba.so.1": library}, Linux, ""},
		{"libraries by environment", Image{Args: []string{"/app"}, Env: []string{"LD_LIBRARY_PATH=/x:/opt"}}, map[string]string{"app*": dynamic, "opt/liba.so.1": library}, Linux, ""},
		{"libraries by origin", Image{Args: []string{"/opt/app"}}, map[string]string{"opt/lib/liba.so.1": library,
			"opt/app*": string(program{interp: glibc, needed: []string{"liba.so.1"}, runpath: "$ORIGIN/lib"}.bytes(t))}, Linux, ""},
		{"script", Image{Args: []string{"/run"}}, map[string]string{"run*": "#!/usr/bin/env -S app x\n", "bin/app*": static}, Linux, ""},
		{"shell on linux", Image{Args: []string{"sh", "-c", "true"}}, map[string]string{"bin/sh*": static}, Linux, ""},
		{"user", Image{Args: []string{"/app"}, User: "me:us"}, map[string]string{"app*": static, "etc/passwd": "me:x:1:1::/:\n", "etc/group": "us:x:1:\n"}, Linux, ""},

		{"architecture", Image{Architecture: "arm64", Args: []string{"/app"}}, map[string]string{"app*": arm}, Linux, "FAIL platform: arm64"},
		{"nothing to run", Image{}, nil, Linux, "FAIL program: neither entry point nor command"},
		{"missing", Image{Args: []string{"/app"}}, nil, Linux, "FAIL program: /app: no such file"},
		{"missing in PATH", Image{Args: []string{"app"}}, map[string]string{"app*": static}, Linux, "FAIL program: app: no such file"},
		{"link out", Image{Args: []string{"/app"}}, map[string]string{"app": ">../../../bin/sh"}, Linux, "FAIL program: /app: no such file"},
		{"link to itself", Image{Args: []string{"/app"}}, map[string]string{"app": ">app"}, Linux, "FAIL program: /app: too many levels"},
		{"not executable", Image{Args: []string{"/app"}}, map[string]string{"app": static}, Linux, "FAIL program: no executable file"},
		{"directory", Image{Args: []string{"/opt"}}, map[string]string{"opt/x": ""}, Linux, "FAIL program: no executable file"},
		{"text", Image{Args: []string{"/app"}}, map[string]string{"app*": "hello"}, Linux, "FAIL program: is neither"},
		{"empty", Image{Args: []string{"/app"}}, map[string]string{"app*": ""}, Linux, "FAIL program: is neither"},
		{"other machine", Image{Args: []string{"/app"}}, map[string]string{"app*": arm}, Linux, "FAIL program: EM_AARCH64"},
		{"no loader", Image{Args: []string{"/app"}}, map[string]string{"app*": string(program{interp: "/lib/ld-musl-x86_64.so.1"}.bytes(t))}, Linux, "FAIL loader: /lib/ld-musl"},
		{"no library", Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic}, Linux, "FAIL libraries: /app needs liba.so.1"},
		{"library of another machine", Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic, "lib/liba.so.1": arm}, Linux, "FAIL libraries: liba.so.1"},
		{"library of a library", Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic,
			"lib/liba.so.1": string(program{needed: []string{"libb.so.2"}}.bytes(t))}, Linux, "FAIL libraries: /lib/liba.so.1 needs libb.so.2"},
		{"no interpreter", Image{Args: []string{"/run"}}, map[string]string{"run*": "#!/bin/app\n"}, Linux, "FAIL program: /bin/app: no such file"},
		{"empty interpreter", Image{Args: []string{"/run"}}, map[string]string{"run*": "#!\n"}, Linux, "FAIL program: without interpreter"},
		{"carriage return", Image{Args: []string{"/run"}}, map[string]string{"run*": "#!/bin/app\r\necho\r\n", "bin/app*": static}, Linux, "FAIL program: /run has Windows line ends"},
		{"scripts in a circle", Image{Args: []string{"/run"}}, map[string]string{"run*": "#!/run\n"}, Linux, "FAIL program: scripts run each other"},
		{"no user", Image{Args: []string{"/app"}, User: "me"}, map[string]string{"app*": static, "etc/passwd": "meow:x:1:1::/:\n"}, Linux, `FAIL user: user "me"`},
		{"no group", Image{Args: []string{"/app"}, User: "5:us"}, map[string]string{"app*": static}, Linux, `FAIL user: group "us"`},

		{"shell", Image{Args: []string{"/bin/sh", "-c", "app"}}, map[string]string{"bin/sh*": static}, Nanos, "FAIL program: is a shell"},
		{"shell by a link", Image{Args: []string{"/run"}}, map[string]string{"run": ">bin/dash", "bin/dash*": static}, Nanos, "FAIL program: is a shell"},
		{"shell script", Image{Args: []string{"/run"}}, map[string]string{"run*": "#!/bin/sh\n", "bin/sh": ">busybox", "bin/busybox*": static}, Nanos, "FAIL program: is a shell"},
		{"script on nanos", Image{Args: []string{"/run"}}, map[string]string{"run*": "#!/bin/app x\n", "bin/app*": static}, Nanos, "FAIL script: does not start /bin/app"},
		{"forks", Image{Args: []string{"/app"}}, map[string]string{"app*": forks}, Nanos, "WARN processes: (execve, fork)"},
		{"forks on linux", Image{Args: []string{"/app"}}, map[string]string{"app*": forks}, Linux, ""},
		{"library forks", Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic,
			"lib/liba.so.1": string(program{imports: []string{"posix_spawn"}}.bytes(t))}, Nanos, "WARN processes: /lib/liba.so.1"},
		{"user on nanos", Image{Args: []string{"/app"}, User: "1000"}, map[string]string{"app*": static}, Nanos, "WARN user: runs as root"},
		{"setuid", Image{Args: []string{"/app"}}, map[string]string{"app*": static, "bin/su+": "x"}, Nanos, "WARN setuid: /bin/su"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all := map[string]string{}
			for _, m := range []map[string]string{base, tt.files} {
				for name, body := range m {
					all[name] = body
				}
			}
			i := tt.image
			i.Architecture, i.Root = cmp.Or(i.Architecture, "amd64"), files(all)
			var bad []Finding
			for _, f := range Check(i, tt.guest) {
				if f.Level != OK {
					bad = append(bad, f)
				}
			}
			if tt.want == "" {
				if len(bad) > 0 {
					t.Errorf("findings %+v", bad)
				}
				return
			}
			head, text, _ := strings.Cut(tt.want, ": ")
			if len(bad) != 1 || bad[0].Level+" "+bad[0].Check != head || !strings.Contains(bad[0].Detail, text) || bad[0].Action == "" {
				t.Errorf("findings %+v, want one: %s", bad, tt.want)
			}
		})
	}
}

func TestProblem(t *testing.T) {
	static := string(program{}.bytes(t))
	dynamic := string(program{interp: glibc, needed: []string{"liba.so.1"}, imports: []string{"fork"}}.bytes(t))
	library := string(program{}.bytes(t))
	loader := map[string]string{"lib64/ld-linux-x86-64.so.2": static}
	shell := map[string]string{"bin/dash*": static, "bin/sh": ">dash", "bin/busybox*": static, "bin/ls": ">busybox", "usr/bin/app*": static}
	sh := func(args ...string) Image {
		return Image{Args: append([]string{"/bin/sh"}, args...), Env: []string{"PATH=/bin:/usr/bin"}}
	}
	for name, tt := range map[string]struct {
		image Image
		files map[string]string
		nanos string // part of the problem; empty for none
		linux string
	}{
		"static":         {Image{Args: []string{"/app"}}, map[string]string{"app*": static}, "", ""},
		"missing":        {Image{Args: []string{"/app"}}, nil, "/app: no such file", "/app: no such file"},
		"library":        {Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic}, "needs liba.so.1", "needs liba.so.1"},
		"forks":          {Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic, "lib/liba.so.1": library}, "", ""},
		"in the cache":   {Image{Args: []string{"/app"}}, map[string]string{"app*": dynamic, "opt/x/liba.so.1": library, "etc/ld.so.cache": "liba.so.1\x00/opt/x/liba.so.1\x00"}, "", ""},
		"by the loader":  {Image{Args: []string{"/app"}}, map[string]string{"app*": string(program{interp: "/store/ld.so.2", needed: []string{"liba.so.1"}}.bytes(t)), "store/ld.so.2*": static, "store/liba.so.1": library}, "", ""},
		"script":         {Image{Args: []string{"/run"}}, map[string]string{"run*": "#!/app", "app*": static}, "does not start /app", ""},
		"shell script":   {sh("-c", "app x"), shell, "is a shell", ""},
		"exec":           {sh("-ec", "set -u; A=1 exec /usr/bin/app"), shell, "is a shell", ""},
		"then":           {sh("-c", "cd /tmp && export X\napp"), shell, "is a shell", ""},
		"path":           {sh("-x", "-c", "/usr/bin/app"), shell, "is a shell", ""},
		"only a shell":   {sh(), shell, "", ""},
		"a file":         {sh("/run"), shell, "", ""},
		"builtins":       {sh("-c", "echo 1; exit 7"), shell, "", ""},
		"builtins first": {sh("-c", "echo 1; app"), shell, "", ""},
		"expansion":      {sh("-c", "$app"), shell, "", ""},
		"quotes":         {sh("-c", "'app'"), shell, "", ""},
		"no program":     {sh("-c", "nothing"), shell, "", ""},
		"option":         {sh("-o", "-c", "app"), shell, "", ""},
		"busybox":        {sh("-c", "ls"), shell, "", ""},
		"itself":         {sh("-c", "dash"), shell, "", ""},
	} {
		all := map[string]string{}
		for _, m := range []map[string]string{loader, tt.files} {
			for name, body := range m {
				all[name] = body
			}
		}
		tt.image.Root = files(all)
		for guest, want := range map[string]string{Nanos: tt.nanos, Linux: tt.linux} {
			f, bad := Problem(tt.image, guest)
			if bad != (want != "") || !strings.Contains(f.String(), want) {
				t.Errorf("%s on %s: %v, %v, want %q", name, guest, f, bad, want)
			}
			if bad && !strings.Contains(f.String(), ": ") {
				t.Errorf("%s: %q does not say what to do", name, f)
			}
		}
	}
}

func TestProgram(t *testing.T) {
	root := files(map[string]string{"opt/app*": "x", "bin/app": ">../opt/app", "usr/bin/app": "not to be run"})
	for name, want := range map[string]string{"app": "/bin/app", "/opt/../bin/app": "/opt/../bin/app", "./app": "/opt/app", "no": "no", "/no": "/no", "": ""} {
		i := Image{Args: []string{name}, Env: []string{"PATH=/usr/bin:/bin"}, WorkingDir: "/opt", Root: root}
		if got := i.Program(); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	if got := (Image{Root: root}).Program(); got != "" {
		t.Errorf("nothing is %q", got)
	}
}

// Whatever a program is, it is judged and does not stop the command.
func FuzzCheck(f *testing.F) {
	f.Add(program{interp: glibc, needed: []string{"liba.so.1"}, runpath: "$ORIGIN", imports: []string{"fork"}}.bytes(f))
	f.Add([]byte("#!/app\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		root := files(map[string]string{"app*": string(data), "lib64/ld-linux-x86-64.so.2": "x"})
		if len(Check(Image{Architecture: "amd64", Args: []string{"/app"}, Root: root}, Nanos)) == 0 {
			t.Error("no finding")
		}
	})
}
