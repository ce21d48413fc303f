package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"containerd-shim-uni/builder/qcow2"
)

// TemplateName is the file beside a writable layer that backs it.
const TemplateName = "template.ext4"

// templateUUID and templateHashSeed are the same in every template: they need
// only be unique within a machine. Random (version 4) UUIDs.
const (
	templateUUID     = "b7d0c5de-62a1-4f0e-8f4c-3d1f0b9a7e21"
	templateHashSeed = "2f9e6a84-5b3d-4c17-a0d8-97c4e1b25f60"
)

// templateOptions make a file system that is mounted quickly and written to
// once, by one guest that is discarded: no journal, no reserved blocks, no
// checksums; groups are initialised when first used, and what a sparse file
// reads as zero is not zeroed again by the guest. One inode for 16 KiB.
var templateOptions = []string{
	"-F", "-q", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-U", templateUUID,
	"-O", "none,filetype,sparse_super,large_file,huge_file,flex_bg,extra_isize,dir_index,dir_nlink,ext_attr,extent,uninit_bg",
	"-E", "hash_seed=" + templateHashSeed + ",nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1",
}

// Sizes of a writable layer in bytes.
const (
	minWritable  = 16 << 20
	maxWritable  = 8 << 40 // 32-bit block numbers
	writableUnit = 1 << 20
)

// Writable makes dst an empty layer for what a container writes: a qcow2 image
// of sizeBytes (rounded up to a MiB) that holds an ext4 file system with the
// empty directories "upper" and "work". It is backed by the file TemplateName,
// which is made beside it; both are needed, and both must not exist before.
// After an error neither exists.
func (s *Store) Writable(ctx context.Context, dst string, sizeBytes int64) error {
	return wrap("writable layer", dst, s.writable(ctx, dst, sizeBytes))
}

func (s *Store) writable(ctx context.Context, dst string, size int64) error {
	if size < minWritable || size > maxWritable {
		return fmt.Errorf("%d bytes: %d to %d are possible", size, minWritable, int64(maxWritable))
	}
	size = (size + writableUnit - 1) / writableUnit * writableUnit
	options := strings.Join(templateOptions, " ")
	name := digest("ext4 1", options, strconv.FormatInt(size, 10)) + ".ext4"
	template := filepath.Join(filepath.Dir(dst), TemplateName)
	err := s.obtain(ctx, filepath.Join(s.templatesDir(), name), template, func(ctx context.Context, f *os.File) error {
		return s.writeTemplate(ctx, f, size)
	})
	if err != nil {
		return fmt.Errorf("template: %w", err)
	}
	if err := s.writeOverlay(dst, size); err != nil {
		return errors.Join(err, os.Remove(template))
	}
	return nil
}

// writeOverlay writes the container's own image. Nothing is synced: it does not
// outlive the container.
func (s *Store) writeOverlay(dst string, size int64) error {
	return s.newFile(dst, qcow2.Overlay{Size: size, Backing: TemplateName, BackingFormat: "raw"}.Write)
}

// writeTemplate formats f with e2fsprogs.
func (s *Store) writeTemplate(ctx context.Context, f *os.File, size int64) error {
	if s.mke2 == "" {
		return fmt.Errorf("mke2fs is neither in $PATH nor in %s: install e2fsprogs", strings.Join(sbin, ", "))
	}
	tree := strings.TrimSuffix(f.Name(), tempSuffix) + ".tree" + tempSuffix
	defer os.RemoveAll(tree)
	if err := templateTree(tree); err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	args := append([]string{}, templateOptions...)
	cmd := exec.CommandContext(ctx, s.mke2, append(args, "-d", tree, f.Name())...)
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
