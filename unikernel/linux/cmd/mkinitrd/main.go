// Command mkinitrd writes the initial RAM file system of the linux guest: an
// uncompressed cpio archive ("newc", see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst) that holds PID 1
// as /init, its mount points and the console's node. The same input gives the
// same bytes.
//
//	mkinitrd -o initrd.img uni-init
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	out := flag.String("o", "initrd.img", "`file` to write")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: mkinitrd -o initrd.img uni-init")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := build(*out, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitrd:", err)
		os.Exit(1)
	}
}

// build writes the archive beside its name first, so that no reader ever sees
// half of it.
func build(out, init string) error {
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), ".initrd-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriter(f)
	if err := write(w, program); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", out, err)
	}
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), out)
}

// File types of st_mode.
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
)

// entry is one file of the archive.
type entry struct {
	name         string
	mode         uint32
	major, minor uint32 // of a device
	data         []byte
}

// entries are the archive's files: what PID 1 needs before it mounts anything.
func entries(program []byte) []entry {
	return []entry{
		{name: "dev", mode: typeDir | 0o755},
		{name: "dev/console", mode: typeChar | 0o600, major: 5, minor: 1},
		{name: "init", mode: typeFile | 0o755, data: program},
		{name: "lower", mode: typeDir | 0o755},
		{name: "proc", mode: typeDir | 0o755},
		{name: "root", mode: typeDir | 0o755},
		{name: "share", mode: typeDir | 0o755},
		{name: "sys", mode: typeDir | 0o755},
		{name: "upper", mode: typeDir | 0o755},
	}
}

// write writes the archive with its trailer.
func write(w io.Writer, program []byte) error {
	for i, e := range entries(program) {
		if err := writeEntry(w, i+1, e); err != nil {
			return err
		}
	}
	return writeEntry(w, 0, entry{name: "TRAILER!!!"})
}

// writeEntry writes a header of fourteen fields, the name and the data, the
// last two padded to four bytes.
func writeEntry(w io.Writer, inode int, e entry) error {
	links := 1
	if e.mode&0o170000 == typeDir {
		links = 2
	}
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, e.mode, 0 /* uid */, 0 /* gid */, links, 0 /* mtime */, len(e.data),
		0, 0 /* device it is on */, e.major, e.minor, len(e.name)+1, 0 /* checksum */, e.name)
	if _, err := io.WriteString(w, pad(head)); err != nil {
		return err
	}
	if _, err := w.Write(e.data); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, -len(e.data)&3))
	return err
}

func pad(s string) string { return s + string(make([]byte, -len(s)&3)) }
