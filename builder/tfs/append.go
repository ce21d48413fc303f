package tfs

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// Image is a disk that was read.
type Image struct {
	// Root is the root file system.
	Root *FS
	in   io.ReaderAt
	boot [2]int64 // where the kernel's file system is, and its size
}

// Is says whether a disk has the marks of the format: that of a volume, or
// partitions of which the second is a file system.
func Is(disk io.ReaderAt) bool {
	mbr := make([]byte, sectorSize)
	if n, _ := disk.ReadAt(mbr, 0); n < sectorSize {
		return false
	}
	if string(mbr[:len(magic)]) == magic {
		return true
	}
	at, size := partition(mbr, 1)
	head := make([]byte, len(magic))
	n, _ := disk.ReadAt(head, at)
	return mbr[510] == 0x55 && mbr[511] == 0xaa && size > 0 && n == len(head) && string(head) == magic
}

// ReadVolume reads a volume of size bytes, under the rules of Read.
func ReadVolume(in io.ReaderAt, size int64) (*FS, error) { return Read(in, 0, size) }

// Open reads a disk of size bytes. Whatever the bytes are, it returns a disk or
// an error that wraps ErrFormat, or one of reading.
func Open(in io.ReaderAt, size int64) (*Image, error) {
	mbr := make([]byte, sectorSize)
	if _, err := in.ReadAt(mbr, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, fmt.Errorf("no partition table: %w", ErrFormat)
	}
	bootAt, bootSize := partition(mbr, 0)
	rootAt, rootSize := partition(mbr, 1)
	if rootSize == 0 || bootSize == 0 || bootAt < LogSize || rootAt > size || rootSize > size-rootAt {
		return nil, fmt.Errorf("no partitions of a boot loader and a root: %w", ErrFormat)
	}
	root, err := Read(in, rootAt, rootSize)
	if err != nil {
		return nil, err
	}
	return &Image{Root: root, in: in, boot: [2]int64{bootAt, bootSize}}, nil
}

// Boot reads the file system that holds the kernel.
func (m *Image) Boot() (*FS, error) { return Read(m.in, m.boot[0], m.boot[1]) }

// LogOffset is where the kernel leaves its last words, see LogSize.
func (m *Image) LogOffset() int64 { return m.boot[0] - LogSize }

// Config is what a container adds to a disk.
type Config struct {
	// Settings are attributes of the root tuple, which the kernel takes its
	// orders from; they replace those of the same name.
	Settings Settings
	// Directories are made, and those that their paths need, where they are
	// missing.
	Directories []string
	// Files are added, or replace what is at their paths.
	Files []NewFile
}

// NewFile is a small file, or a symbolic link if it has a target. Directories
// that its path needs are made.
type NewFile struct {
	Path   string
	Data   []byte
	Target string
}

// Chunk is what must be written at an offset of a disk, both in bytes. What
// follows it up to a multiple of 64 KiB is zero.
type Chunk struct {
	Offset int64
	Data   []byte
}

// Append returns what a copy-on-write layer over a disk that Disk.Write made
// has to hold so that the disk has a Config. The layer is as large as the disk
// or larger, and the guest can write to all that is free. It can be called once
// for an Image.
func (m *Image) Append(c Config) ([]Chunk, error) {
	f := m.Root
	free := int64(f.last)*sectorSize + f.lastSize
	if f.lastIsUsed || free != f.size || (f.base+free)%configAlign != 0 {
		return nil, fmt.Errorf("the root file system has no empty extension at its end: %w", ErrFormat)
	}
	f.lastIsUsed = true
	a := appender{fs: f, next: uint64(free / sectorSize),
		enc: &encoder{symbols: map[string]uint64{}, known: f.dec.symbol, count: uint64(f.dec.dictionary.len())}}
	log := newExtension(nil, extensionSize)
	for _, dir := range c.Directories {
		if err := a.directory(dir); err != nil {
			return nil, fmt.Errorf("directory %s: %w", dir, err)
		}
		log = a.emit(log)
	}
	for _, file := range c.Files {
		if err := a.file(file); err != nil {
			return nil, fmt.Errorf("file %s: %w", file.Path, err)
		}
		log = a.emit(log)
	}
	a.enc.again(f.Root.Index, len(c.Settings))
	if !a.enc.settings(c.Settings) {
		return nil, errSetting
	}
	log = append(a.emit(log), frameEnd)
	if len(log) > extensionSize-tailSize {
		return nil, fmt.Errorf("arguments, environment and settings have %d bytes, %d are possible: %w", len(log), extensionSize-tailSize, unix.E2BIG)
	}
	chunks := []Chunk{{f.base + int64(f.last)*sectorSize, log}}
	if len(a.data) > 0 {
		chunks = append(chunks, Chunk{f.base + free, a.data})
	}
	return chunks, nil
}

// appender adds files to a file system.
type appender struct {
	fs   *FS
	enc  *encoder
	next uint64 // free sector
	data []byte // from there on
}

func (a *appender) emit(log []byte) []byte {
	if len(a.enc.b) == 0 {
		return log
	}
	log = appendFrame(log, a.enc.b, len(a.enc.b), true)
	a.enc.b = a.enc.b[:0]
	return log
}

// file adds one file or link and the directories that it needs.
func (a *appender) file(n NewFile) error {
	dir, missing, err := a.fs.place(n.Path)
	if err != nil {
		return err
	}
	dir, name := a.begin(dir, missing)
	// A tuple that stands for the file: it is there, and no directory.
	if n.Target != "" {
		dir.set(name, &Tuple{Index: a.enc.tuple(1)})
		a.enc.symbol(attrLinkTarget)
		a.enc.string(n.Target)
		return nil
	}
	dir.set(name, &Tuple{Index: a.enc.fileTuple(int64(len(n.Data)), a.store(n.Data), 0)})
	return nil
}

// directory makes a directory and those that it needs, unless it is there.
func (a *appender) directory(path string) error {
	dir, missing, err := a.fs.place(path)
	if errors.Is(err, unix.EISDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	if dir.child(missing[0]) != nil {
		return unix.ENOTDIR
	}
	dir, name := a.begin(dir, missing)
	a.newDirectory(dir, name, 0)
	return nil
}

// begin makes the directories that are missing and leads up to the last of the
// names, whose tuple has to follow.
func (a *appender) begin(dir *Tuple, missing []string) (at *Tuple, name string) {
	last := len(missing) - 1
	a.enc.again(dir.Index, 1)
	for _, name := range missing[:last] {
		a.enc.symbol(name)
		dir = a.newDirectory(dir, name, 1)
	}
	a.enc.symbol(missing[last])
	return dir, missing[last]
}

// newDirectory appends a directory, whose entries, this many, have to
// follow.
func (a *appender) newDirectory(dir *Tuple, name string, entries int) *Tuple {
	made := &Tuple{Index: a.enc.tuple(1)}
	a.enc.symbol(attrChildren)
	kids := &Tuple{Index: a.enc.tuple(entries)}
	made.set(attrChildren, kids)
	dir.set(name, made)
	return kids
}

// store adds a file's data behind all others.
func (a *appender) store(data []byte) []extent {
	if len(data) == 0 {
		return nil
	}
	start := a.next + uint64(len(a.data)/sectorSize)
	size := roundUp(int64(len(data)), sectorSize)
	a.data = append(a.data, data...)
	a.data = append(a.data, make([]byte, size-int64(len(data)))...)
	return []extent{{0, start, uint64(size / sectorSize)}}
}

// place finds where a path leads: the tuple of a directory's entries, and the
// names below it that are missing or to be replaced, at least one.
func (f *FS) place(path string) (dir *Tuple, missing []string, err error) {
	at := []*Tuple{f.Root.child(attrChildren)}
	rest := names(path)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		dir := at[len(at)-1]
		if name == ".." {
			at, rest = at[:max(1, len(at)-1)], rest[1:]
			continue
		}
		next := dir.child(name)
		if next == nil {
			return dir, missingNames(rest), nil
		}
		if target, ok := next.text(attrLinkTarget); ok {
			if links++; links > maxLinks {
				return nil, nil, unix.ELOOP
			}
			if strings.HasPrefix(target, "/") {
				at = at[:1]
			}
			rest = append(names(target), rest[1:]...)
			continue
		}
		kids := next.child(attrChildren)
		switch {
		case kids == nil && len(rest) == 1:
			return dir, rest, nil
		case kids == nil:
			return nil, nil, unix.ENOTDIR
		}
		at, rest = append(at, kids), rest[1:]
	}
	return nil, nil, unix.EISDIR
}

// missingNames drops what ".." takes back again.
func missingNames(rest []string) []string {
	var list []string
	for _, name := range rest {
		if name == ".." {
			if len(list) > 1 {
				list = list[:len(list)-1]
			}
			continue
		}
		list = append(list, name)
	}
	return list
}

func names(path string) []string {
	var list []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			list = append(list, name)
		}
	}
	return list
}
