package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// mapped maps a page of a file and lets f use it.
func mapped(f *os.File, prot, flags int, use func(page []byte) error) error {
	page, err := unix.Mmap(int(f.Fd()), 0, 4096, prot, flags)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	return errors.Join(use(page), unix.Munmap(page))
}

// file makes one of 8192 bytes "0" and opens it.
func file(path string, flags int) (*os.File, error) {
	if err := os.WriteFile(path, bytes.Repeat([]byte("0"), 8192), 0o600); err != nil {
		return nil, err
	}
	return os.OpenFile(path, flags, 0)
}

// through is a write by a shared mapping of a file opened with flags.
func through(dir string, flags int) error {
	f, err := file(dir+"/f", flags)
	if err != nil {
		return err
	}
	defer f.Close()
	err = mapped(f, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, func(page []byte) error {
		copy(page[100:], "mapped")
		return unix.Msync(page, unix.MS_SYNC)
	})
	if err != nil {
		return err
	}
	if err := ask("copy"); err != nil { // /a/copy.in is read by the host, not from this kernel's pages
		return err
	}
	text, err := os.ReadFile("/a/copy.out")
	if err != nil {
		return err
	}
	return errors.Join(os.Remove("/a/copy.out"), want("length", len(text), 8192), want("text", string(text[100:106]), "mapped"), want("rest", text[106], '0'))
}

var mappings = []expectation{
	{"mmap, shared, written", func(dir string) error {
		return errors.Join(os.Symlink(dir[3:]+"/f", "/a/copy.in"), through(dir, os.O_RDWR), os.Remove("/a/copy.in"))
	}},
	{"mmap, shared, written, open for appending", func(dir string) error {
		return errors.Join(os.Symlink(dir[3:]+"/f", "/a/copy.in"), through(dir, os.O_RDWR|os.O_APPEND), os.Remove("/a/copy.in"))
	}},
	{"mmap, private", func(dir string) error {
		f, err := file(dir+"/f", os.O_RDONLY)
		if err != nil {
			return err
		}
		defer f.Close()
		err = mapped(f, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE, func(page []byte) error {
			page[0] = 'x'
			return nil
		})
		text, err2 := os.ReadFile(dir + "/f")
		return errors.Join(err, err2, want("text", text[0], '0'))
	}},
	{"mmap, executed", func(dir string) error {
		f, err := file(dir+"/f", os.O_RDONLY)
		if err != nil {
			return err
		}
		defer f.Close()
		return mapped(f, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE, func([]byte) error { return nil })
	}},
	{"mmap sees a write", func(dir string) error {
		f, err := file(dir+"/f", os.O_RDWR)
		if err != nil {
			return err
		}
		defer f.Close()
		return mapped(f, unix.PROT_READ, unix.MAP_SHARED, func(page []byte) error {
			_, err := f.WriteAt([]byte("x"), 7)
			return errors.Join(err, want("byte", page[7], 'x'))
		})
	}},
}

var contents = []expectation{
	{"sparse file", func(dir string) error {
		f, err := os.Create(dir + "/f")
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("x"), 64<<20)
		st, err2 := stat(dir + "/f")
		if err := errors.Join(err, err2, want("little is allocated", st.Blocks < 1024, true)); err != nil {
			return err
		}
		data, err := f.Seek(0, unix.SEEK_DATA)
		return errors.Join(err, want("data begins after the hole", data > 60<<20, true))
	}},
	{"fallocate and holes", func(dir string) error {
		f, err := os.Create(dir + "/f")
		if err != nil {
			return err
		}
		defer f.Close()
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, 1<<20), unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 1<<19))
		st, err2 := stat(dir + "/f")
		return errors.Join(err, err2, want("length", st.Size, 1<<20))
	}},
	{"5 GiB long", func(dir string) error {
		f, err := os.Create(dir + "/f")
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("x"), 5<<30)
		b := make([]byte, 1)
		_, err2 := f.ReadAt(b, 5<<30)
		return errors.Join(err, err2, want("byte", b[0], 'x'), os.Remove(dir+"/f"))
	}},
	{"O_DIRECT", func(dir string) error {
		fd, err := unix.Open(dir+"/f", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		n, err := unix.Pwrite(fd, page, 0)
		return errors.Join(err, want("written", n, 4096))
	}},
	{"O_APPEND by two", func(dir string) error {
		var files [2]*os.File
		for i := range files {
			f, err := os.OpenFile(dir+"/f", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			if err != nil {
				return err
			}
			defer f.Close()
			files[i] = f
		}
		for i := range 100 {
			if _, err := files[i%2].WriteString("0123456789"); err != nil {
				return err
			}
		}
		st, err := stat(dir + "/f")
		return errors.Join(err, want("length", st.Size, 1000))
	}},
	{"copy_file_range", func(dir string) error {
		f, err := file(dir+"/f", os.O_RDONLY)
		if err != nil {
			return err
		}
		defer f.Close()
		g, err := os.Create(dir + "/g")
		if err != nil {
			return err
		}
		defer g.Close()
		n, err := unix.CopyFileRange(int(f.Fd()), nil, int(g.Fd()), nil, 8192, 0)
		return errors.Join(err, want("copied", n, 8192))
	}},
	{"fsync, fdatasync, syncfs, O_SYNC", func(dir string) error {
		f, err := os.OpenFile(dir+"/f", os.O_CREATE|os.O_RDWR|os.O_SYNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		_, err = f.WriteString("x")
		return errors.Join(err, f.Sync(), unix.Fdatasync(int(f.Fd())), unix.Syncfs(int(f.Fd())), d.Sync())
	}},
	{"a removed file that is open", func(dir string) error {
		f, err := file(dir+"/f", os.O_RDWR)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, 1)
		err = os.Remove(dir + "/f")
		_, err2 := f.ReadAt(b, 5000)
		info, err3 := f.Stat()
		return errors.Join(err, err2, err3, want("byte", b[0], '0'), want("length", info.Size(), 8192))
	}},
	{"what the host writes is seen", func(string) error {
		if err := os.WriteFile("/a/host.txt", []byte("before"), 0o600); err != nil {
			return err
		}
		if _, err := os.ReadFile("/a/host.txt"); err != nil {
			return err
		}
		if err := ask("write"); err != nil {
			return err
		}
		began := time.Now()
		return errors.Join(until("what the host wrote", func() bool {
			text, err := os.ReadFile("/a/host.txt")
			return err == nil && string(text) == "after all"
		}), want("within 2 s", time.Since(began) < 2*time.Second, true))
	}},
	{"a file's size limit is the host's room", func(string) error {
		var fs unix.Statfs_t
		return errors.Join(unix.Statfs("/b", &fs), want("bytes", fs.Blocks*uint64(fs.Bsize), 16<<20))
	}},
	{"no room", func(string) error {
		f, err := os.Create("/b/big")
		if err != nil {
			return err
		}
		defer os.Remove("/b/big")
		defer f.Close()
		for range 17 {
			if _, err = f.Write(make([]byte, 1<<20)); err != nil {
				break
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("%v, want %w", err, unix.ENOSPC)
		}
		return nil
	}},
}
