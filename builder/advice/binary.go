package advice

import (
	"debug/elf"
	"path"
	"slices"
	"strings"

	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel/elffile"
)

// binary checks an ELF program, its loader and its libraries.
func (c *checker) binary(n *tree.Node, at string) {
	if c.isKernel(n, at) {
		return
	}
	f, done, err := openELF(n)
	if err != nil {
		c.add("program", Fail, "a program is an ELF file or a script that starts with #!", "%s is neither: %v", at, err)
		return
	}
	defer done()
	if f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		c.add("program", Fail, "build it for linux/amd64", "%s is for %v, %v", at, f.Machine, f.Class)
		return
	}
	c.add("program", OK, "", "%s", at)
	l := linker{checker: c, seen: map[string]bool{}, missing: map[string]string{}, starts: map[string][]string{}, sonames: map[string]bool{}}
	loader := f.Interpreter()
	if loader == "" {
		c.add("libraries", OK, "", "none, the program is static")
		l.note(at, f)
		l.reportStarts()
		return
	}
	ld, ldAt, err := c.image.Root.Lookup(loader)
	if err != nil || !ld.IsFile() {
		c.add("loader", Fail, "use a base image with the C library that the program was built for, or link it statically",
			"%s needs %s, which is not in the image", at, loader)
		return
	}
	l.musl = strings.Contains(path.Base(loader), "musl")
	// Where the loader is, the library that it belongs to is found, too.
	l.system = append(l.systemDirs(), path.Dir(loader), path.Dir(ldAt))
	l.load(at, f)
	l.report()
	l.reportStarts()
}

func openELF(n *tree.Node) (*elffile.File, func(), error) {
	if n.Data == nil {
		return nil, nil, elffile.ErrFormat
	}
	data, err := n.Data.Open()
	if err != nil {
		return nil, nil, err
	}
	f, err := elffile.Open(data)
	if err != nil {
		data.Close()
		return nil, nil, err
	}
	return f, func() { data.Close() }, nil
}

// linker follows the libraries as the dynamic loader does.
type linker struct {
	*checker
	musl    bool
	system  []string
	seen    map[string]bool     // by name
	missing map[string]string   // library to who needs it
	sonames map[string]bool     // what libraries call themselves
	starts  map[string][]string // file to what it imports
	count   int
	configs int     // files of the loader's configuration that were read
	cache   *string // /etc/ld.so.cache, once it was asked for
}

// Bounds of what a hostile program makes us look for: libraries, and directories
// that one of them is searched in, and files that name directories.
const (
	maxLibraries = 1000
	maxDirs      = 100
	maxConfigs   = 100
)

// object is a file of which the libraries are yet to be found.
type object struct {
	at      string
	dynamic map[elf.DynTag][]string
	rpath   []string // what those that loaded it add
}

// load follows the libraries of a file, breadth first as the loader does.
func (l *linker) load(at string, f *elffile.File) {
	l.note(at, f)
	for todo := []object{{at, dynamic(f), nil}}; len(todo) > 0; todo = todo[1:] {
		o := todo[0]
		for _, name := range o.dynamic[elf.DT_SONAME] {
			l.sonames[name] = true
		}
		rpath := atMost(maxDirs, dirs(o.dynamic[elf.DT_RPATH], o.at), o.rpath)
		runpath := dirs(o.dynamic[elf.DT_RUNPATH], o.at)
		search := atMost(3*maxDirs, rpath, l.envDirs(), l.system)
		if len(runpath) > 0 {
			search = atMost(3*maxDirs, l.envDirs(), runpath, l.system)
		}
		for _, name := range o.dynamic[elf.DT_NEEDED] {
			if l.seen[name] || len(l.seen) == maxLibraries {
				continue
			}
			l.seen[name] = true
			kid, lib, done := l.library(name, search)
			if kid == nil {
				l.missing[name] = o.at
				continue
			}
			l.count++
			l.note(lib, kid)
			todo = append(todo, object{lib, dynamic(kid), rpath})
			done()
		}
	}
}

// dynamic returns what a file's dynamic section says of its libraries.
func dynamic(f *elffile.File) map[elf.DynTag][]string {
	return f.Dynamic(elf.DT_NEEDED, elf.DT_SONAME, elf.DT_RPATH, elf.DT_RUNPATH)
}

// atMost concatenates lists up to a number of elements.
func atMost(most int, lists ...[]string) (all []string) {
	for _, list := range lists {
		all = append(all, list[:min(len(list), most-len(all))]...)
	}
	return all
}

// library opens a library for this machine.
func (l *linker) library(name string, search []string) (f *elffile.File, at string, done func()) {
	if strings.Contains(name, "/") {
		search = []string{""}
	}
	if f, at, done = l.libraryIn(name, search); f == nil {
		f, at, done = l.libraryIn(name, l.cached(name))
	}
	return f, at, done
}

func (l *linker) libraryIn(name string, search []string) (*elffile.File, string, func()) {
	for _, dir := range search {
		n, at, err := l.image.Root.Lookup(path.Join("/", dir, name))
		if err != nil || !n.IsFile() {
			continue
		}
		f, done, err := openELF(n)
		if err != nil {
			continue
		}
		if f.Machine == elf.EM_X86_64 && f.Class == elf.ELFCLASS64 {
			return f, at, done
		}
		done()
	}
	return nil, "", nil
}

// cached returns the directories in which glibc's cache has a library: those
// that were given to ldconfig(8) are in no configuration. A path in the cache
// ends with a zero byte, and one is before it.
func (l *linker) cached(name string) []string {
	if l.musl {
		return nil
	}
	var all []string
	if l.cache == nil {
		text := l.text("/etc/ld.so.cache")
		l.cache = &text
	}
	for text := *l.cache; ; {
		before, after, ok := strings.Cut(text, "/"+name+"\x00")
		if !ok {
			return all
		}
		if dir := before[strings.LastIndexByte(before, 0)+1:]; strings.HasPrefix(dir, "/") && len(all) < maxDirs {
			all = append(all, dir)
		}
		text = after
	}
}

// dirs returns the directories that strings of the dynamic section list.
func dirs(values []string, at string) []string {
	var all []string
	for _, v := range values {
		for dir := range strings.SplitSeq(v, ":") {
			for _, origin := range []string{"$ORIGIN", "${ORIGIN}"} {
				dir = strings.Replace(dir, origin, path.Dir(at), 1)
			}
			if all = append(all, dir); len(all) == maxDirs {
				return all
			}
		}
	}
	return all
}

func (l *linker) envDirs() []string {
	if v := l.image.env("LD_LIBRARY_PATH"); v != "" {
		return strings.SplitN(v, ":", maxDirs)
	}
	return nil
}

// systemDirs are the loader's own: see ld.so(8), and musl's ldso/dynlink.c.
func (l *linker) systemDirs() []string {
	if l.musl {
		if text := l.text("/etc/ld-musl-x86_64.path"); text != "" {
			return atMost(maxDirs, strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '\n' }))
		}
		return []string{"/lib", "/usr/local/lib", "/usr/lib"}
	}
	all := atMost(maxDirs, l.conf("/etc/ld.so.conf", 0))
	return append(all, "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
		"/lib64/glibc-hwcaps/x86-64-v2", "/usr/lib64/glibc-hwcaps/x86-64-v2")
}

// conf reads a file of the form of /etc/ld.so.conf, whose contents are in the
// loader's cache.
func (l *linker) conf(name string, depth int) []string {
	if l.configs++; depth > 3 || l.configs > maxConfigs {
		return nil
	}
	var all []string
	for line := range strings.Lines(l.text(name)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "include":
			for _, pattern := range words[1:] {
				all = append(all, l.include(name, pattern, depth)...)
			}
		default:
			all = append(all, words[0])
		}
	}
	return all
}

func (l *linker) include(from, pattern string, depth int) []string {
	if !path.IsAbs(pattern) {
		pattern = path.Join(path.Dir(from), pattern)
	}
	dir, _, err := l.image.Root.Lookup(path.Dir(pattern))
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range dir.Entries {
		if ok, _ := path.Match(path.Base(pattern), e.Name); ok {
			all = append(all, l.conf(path.Join(path.Dir(pattern), e.Name), depth+1)...)
		}
	}
	return all
}

func (l *linker) report() {
	for name := range l.sonames { // a library that is loaded is not looked for
		delete(l.missing, name)
	}
	if len(l.missing) == 0 {
		l.add("libraries", OK, "", "%d, all in the image", l.count)
		return
	}
	names := make([]string, 0, len(l.missing))
	for name := range l.missing {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		l.add("libraries", Fail, "install the package that has it into the image", "%s needs %s, which is not in the image", l.missing[name], name)
	}
}

// starters are the functions that start a process.
var starters = []string{"fork", "vfork", "clone", "execve", "execv", "execvp", "execvpe", "execl", "execlp", "execle", "fexecve",
	"posix_spawn", "posix_spawnp", "popen", "system", "daemon", "forkpty"}

// note remembers which of them a file calls. The C library defines them.
func (l *linker) note(at string, f *elffile.File) {
	base := path.Base(at)
	if !l.single || l.certain || strings.HasPrefix(base, "libc.") || strings.HasPrefix(base, "libc-") || strings.HasPrefix(base, "ld-") ||
		strings.HasPrefix(base, "libpthread") || strings.HasPrefix(base, "libutil") {
		return
	}
	var found []string
	symbols, count := f.Symbols(elf.SHT_DYNSYM, starters)
	for _, s := range symbols {
		if s.Undefined {
			found = append(found, s.Name)
		}
	}
	if f.Interpreter() == "" && count == 0 { // static: what is linked in
		symbols, _ := f.Symbols(elf.SHT_SYMTAB, starters)
		for _, s := range symbols {
			if s.Function && s.Name != "clone" {
				found = append(found, s.Name)
			}
		}
	}
	slices.Sort(found)
	if found = slices.Compact(found); len(found) > 0 {
		l.starts[at] = found
	}
}

func (l *linker) reportStarts() {
	if !l.single || l.certain {
		return
	}
	files := make([]string, 0, len(l.starts))
	for at := range l.starts {
		files = append(files, at)
	}
	slices.Sort(files)
	for _, at := range files {
		l.add("processes", Warn, "if the program starts others, turn that off in its settings or "+useLinux,
			"%s can start processes (%s), which nanos refuses", at, strings.Join(l.starts[at], ", "))
	}
	if len(files) == 0 {
		l.add("processes", OK, "", "no file imports a function that starts one")
	}
}
