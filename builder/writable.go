package builder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"containerd-shim-uni/builder/hostfs"
)

// templateUUID and templateHashSeed are the same in every template: they need
// only be unique within a machine. Random (version 4) UUIDs.
const (
	templateUUID     = "b7d0c5de-62a1-4f0e-8f4c-3d1f0b9a7e21"
	templateHashSeed = "2f9e6a84-5b3d-4c17-a0d8-97c4e1b25f60"
)

// templateOptions make a file system that is mounted quickly: no reserved blocks,
// no checksums; groups are initialised when first used, and what a sparse file
// reads as zero is not zeroed again by the guest. It has a journal, because it is
// mounted again after a machine or the host has crashed.
var templateOptions = []string{
	"-F", "-q", "-b", "4096", "-I", "256", "-m", "0", "-U", templateUUID,
	"-O", "none,filetype,sparse_super,large_file,huge_file,flex_bg,extra_isize,dir_index,dir_nlink,ext_attr,extent,uninit_bg,has_journal",
	"-E", "hash_seed=" + templateHashSeed + ",nodiscard,lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1",
}

// journalMiB is the journal's size for a layer of that many bytes: the least that
// mke2fs makes, 16 MiB for those of a GiB and more. The journal is written round
// and round, so that much of the host's disk is in use after a while.
func journalMiB(size int64) int64 { return min(max(size>>26, 4), 16) }

// bytesPerInode is how many bytes of a layer of that size there is one file for: what
// distributions' mke2fs.conf says, which has more files on file systems below 512 MiB
// ("small"), and as many as can be where more than half would be taken from the start.
func bytesPerInode(size int64, files int) int64 {
	if size < 512<<20 || int64(files) > size/usualRatio/2 {
		return leastRatio
	}
	return usualRatio
}

// leastRatio is a block for a file: mke2fs makes no more.
const leastRatio, usualRatio = 4096, 16384

// fits says whether a layer of that size can have so many files.
func fits(size int64, files int) error {
	if most := size / leastRatio; int64(files) >= most {
		return fmt.Errorf("%d files are in it, and a disk of %d MiB holds less than %d: give the container a larger one (rootfs.writable_size)", files, size>>20, most)
	}
	return nil
}

// Sizes of a writable layer in bytes.
const (
	minWritable  = 16 << 20
	maxWritable  = 8 << 40 // 32-bit block numbers
	writableUnit = 1 << 20
)

// Writable makes dst an empty layer for what a container writes: a raw, sparse
// disk of sizeBytes (rounded up to a MiB) that holds an ext4 file system with the
// empty directories "upper" and "work". dst must not exist; after an error it does
// not.
func (s *Store) Writable(ctx context.Context, dst string, sizeBytes int64) error {
	return wrap("writable layer", dst, s.writable(ctx, dst, sizeBytes))
}

func (s *Store) writable(ctx context.Context, dst string, size int64) error {
	size, err := layerSize(size)
	if err != nil {
		return err
	}
	options := strings.Join(templateOptions, " ")
	name := digest("ext4 3", options, strconv.FormatInt(size, 10)) + ".ext4"
	// A link, so that the template stays while it is copied.
	template := dst + ".template"
	err = s.obtain(ctx, filepath.Join(s.templatesDir(), name), template, func(ctx context.Context, f *os.File) error {
		return s.writeTemplate(ctx, f, size)
	})
	if err != nil {
		return fmt.Errorf("template: %w", err)
	}
	defer os.Remove(template)
	return s.newFile(dst, func(f *os.File) error { return copySparse(f, template) })
}

// layerSize rounds a layer's size in bytes up to what can be made.
func layerSize(size int64) (int64, error) {
	if size < minWritable || size > maxWritable {
		return 0, fmt.Errorf("%d bytes: %d to %d are possible", size, minWritable, int64(maxWritable))
	}
	return (size + writableUnit - 1) / writableUnit * writableUnit, nil
}

// copySparse makes an empty file a copy of another, of its holes too.
func copySparse(dst *os.File, path string) error {
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for pos := int64(0); ; {
		start, end, err := hostfs.SeekData(src, pos, st.Size())
		if err != nil || start >= st.Size() {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start)); err != nil {
			return err
		}
		pos = end
	}
}

// writeTemplate formats f, of which only upper and work are in it.
func (s *Store) writeTemplate(ctx context.Context, f *os.File, size int64) error {
	tree := strings.TrimSuffix(f.Name(), tempSuffix) + ".tree" + tempSuffix
	defer os.RemoveAll(tree)
	if err := templateTree(tree); err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return s.format(ctx, f.Name(), size, 0, tree)
}

// format makes a file an ext4 file system of so many files in a directory, with
// e2fsprogs.
func (s *Store) format(ctx context.Context, image string, size int64, files int, tree string) error {
	if s.mke2 == "" {
		return fmt.Errorf("mke2fs is neither in $PATH nor in %s: install e2fsprogs", strings.Join(sbin, ", "))
	}
	args := append(slices.Clone(templateOptions), "-i", strconv.FormatInt(bytesPerInode(size, files), 10),
		"-J", "size="+strconv.FormatInt(journalMiB(size), 10), "-d", tree, image)
	cmd := exec.CommandContext(ctx, s.mke2, args...)
	// Not the host's mke2fs.conf; a fixed time; messages in English.
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null", "E2FSPROGS_FAKE_TIME=1", "LC_ALL=C"}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", s.mke2, err, excerpt(output.Bytes()))
	}
	return nil
}

// templateTree makes what the file system holds from the start, with fixed times.
func templateTree(dir string) error {
	for _, path := range []string{dir, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	for _, path := range []string{filepath.Join(dir, "upper"), filepath.Join(dir, "work"), dir} {
		if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			return err
		}
	}
	return nil
}

// excerpt is a command's output for an error: one line, not too long.
func excerpt(output []byte) string {
	const most = 500 // bytes
	s := strings.Join(strings.Fields(string(output)), " ")
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}

// sbin is where mke2fs is when $PATH, as of a daemon, does not say.
var sbin = []string{"/usr/sbin", "/sbin"}

func findMke2fs() string {
	if path, err := exec.LookPath("mke2fs"); err == nil {
		return path
	}
	for _, dir := range sbin {
		if path, err := exec.LookPath(filepath.Join(dir, "mke2fs")); err == nil {
			return path
		}
	}
	return ""
}
