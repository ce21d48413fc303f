package advice

import (
	"bytes"
	"debug/elf"
	"path"
	"slices"
	"strings"

	"containerd-shim-uni/builder/tree"
)

// binary checks an ELF program, its loader and its libraries.
func (c *checker) binary(n *tree.Node, at string) {
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
	loader := interp(f)
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
	l.load(at, f, nil)
	l.report()
	l.reportStarts()
}

func openELF(n *tree.Node) (*elf.File, func(), error) {
	if n.Data == nil {
		return nil, nil, &elf.FormatError{}
	}
	data, err := n.Data.Open()
	if err != nil {
		return nil, nil, err
	}
	f, err := elf.NewFile(data)
	if err != nil {
		data.Close()
		return nil, nil, err
	}
	return f, func() { data.Close() }, nil
}

// interp is the dynamic loader that a program names; empty for none.
func interp(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return ""
		}
		return strings.TrimRight(string(b), "\x00")
	}
	return ""
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
}

// maxLibraries bounds what a hostile program makes us read.
const maxLibraries = 1000

// load follows the libraries of a file; rpath is what those that loaded it add.
func (l *linker) load(at string, f *elf.File, rpath []string) {
	l.note(at, f)
	dynamic := readDynamic(f)
	for _, name := range dynamic[elf.DT_SONAME] {
		l.sonames[name] = true
	}
	rpath = slices.Concat(dirs(dynamic[elf.DT_RPATH], at), rpath)
	runpath := dirs(dynamic[elf.DT_RUNPATH], at)
	search := slices.Concat(rpath, l.envDirs(), l.system)
	if len(runpath) > 0 {
		search = slices.Concat(l.envDirs(), runpath, l.system)
	}
	for _, name := range dynamic[elf.DT_NEEDED] {
		if l.seen[name] || len(l.seen) == maxLibraries {
			continue
		}
		l.seen[name] = true
		kid, lib, done := l.library(name, search)
		if kid == nil {
			l.missing[name] = at
			continue
		}
		l.count++
		l.load(lib, kid, rpath)
		done()
	}
}

// readDynamic returns the strings of a file's dynamic section by their tags;
// nothing for a file without one, or with one that makes no sense.
func readDynamic(f *elf.File) map[elf.DynTag][]string {
	section := f.SectionByType(elf.SHT_DYNAMIC)
	if section == nil || int(section.Link) >= len(f.Sections) {
		return nil
	}
	data, err := section.Data()
	if err != nil {
		return nil
	}
	text, err := f.Sections[section.Link].Data()
	if err != nil {
		return nil
	}
	all := map[elf.DynTag][]string{}
	const size = 16 // of an entry: a tag and a value
	for ; len(data) >= size; data = data[size:] {
		tag, at := elf.DynTag(f.ByteOrder.Uint64(data)), f.ByteOrder.Uint64(data[8:])
		switch tag {
		case elf.DT_NEEDED, elf.DT_SONAME, elf.DT_RPATH, elf.DT_RUNPATH:
			if at < uint64(len(text)) {
				s, _, _ := bytes.Cut(text[at:], []byte{0})
				all[tag] = append(all[tag], string(s))
			}
		}
	}
	return all
}

// library opens a library for this machine.
func (l *linker) library(name string, search []string) (f *elf.File, at string, done func()) {
	if strings.Contains(name, "/") {
		search = []string{""}
	}
	if f, at, done = l.libraryIn(name, search); f == nil {
		f, at, done = l.libraryIn(name, l.cached(name))
	}
	return f, at, done
}

func (l *linker) libraryIn(name string, search []string) (*elf.File, string, func()) {
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
	text := l.text("/etc/ld.so.cache")
	for {
		before, after, ok := strings.Cut(text, "/"+name+"\x00")
		if !ok {
			return all
		}
		if dir := before[strings.LastIndexByte(before, 0)+1:]; strings.HasPrefix(dir, "/") {
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
				dir = strings.ReplaceAll(dir, origin, path.Dir(at))
			}
			all = append(all, dir)
		}
	}
	return all
}

func (l *linker) envDirs() []string {
	if v := l.image.env("LD_LIBRARY_PATH"); v != "" {
		return strings.Split(v, ":")
	}
	return nil
}

// systemDirs are the loader's own: see ld.so(8), and musl's ldso/dynlink.c.
func (l *linker) systemDirs() []string {
	if l.musl {
		if text := l.text("/etc/ld-musl-x86_64.path"); text != "" {
			return strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '\n' })
		}
		return []string{"/lib", "/usr/local/lib", "/usr/lib"}
	}
	all := l.conf("/etc/ld.so.conf", 0)
	return append(all, "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
		"/lib64/glibc-hwcaps/x86-64-v2", "/usr/lib64/glibc-hwcaps/x86-64-v2")
}

// conf reads a file of the form of /etc/ld.so.conf, whose contents are in the
// loader's cache.
func (l *linker) conf(name string, depth int) []string {
	if depth > 3 {
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
func (l *linker) note(at string, f *elf.File) {
	base := path.Base(at)
	if !l.single || l.certain || strings.HasPrefix(base, "libc.") || strings.HasPrefix(base, "libc-") || strings.HasPrefix(base, "ld-") ||
		strings.HasPrefix(base, "libpthread") || strings.HasPrefix(base, "libutil") {
		return
	}
	var found []string
	symbols, _ := f.ImportedSymbols() // an error is a file without any
	for _, s := range symbols {
		if slices.Contains(starters, s.Name) {
			found = append(found, s.Name)
		}
	}
	if interp(f) == "" && len(symbols) == 0 { // static: what is linked in
		all, _ := f.Symbols()
		for _, s := range all {
			if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Name != "clone" && slices.Contains(starters, s.Name) {
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
