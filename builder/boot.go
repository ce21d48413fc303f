package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"containerd-shim-uni/builder/qcow2"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"
)

const (
	// diskFormat is to package tfs what rootFormat is to erofs.
	diskFormat = "tfs 2"
	diskSuffix = ".tfs"
)

// BootDisk makes dst a disk that boots a kernel with the files of root, raw and
// read-only, under the rules of Root. A boot image or kernel that is missing is
// unikernel.ErrNotFound, one that cannot be one unikernel.ErrInvalid.
func (s *Store) BootDisk(ctx context.Context, root unikernel.Rootfs, d unikernel.BootDisk, dst string) error {
	return wrap("boot disk", dst, s.bootDisk(ctx, root, d, dst))
}

func (s *Store) bootDisk(ctx context.Context, root unikernel.Rootfs, d unikernel.BootDisk, dst string) error {
	var disk tfs.Disk
	var err error
	if disk.Boot, err = readKernel(d.Boot); err != nil {
		return err
	}
	if disk.Kernel, err = readKernel(d.Kernel); err != nil {
		return err
	}
	if root.Disk != nil {
		return s.adoptBoot(ctx, root, disk, dst)
	}
	build := func(ctx context.Context, f *os.File) error {
		err := s.writeRoot(ctx, root, f, disk.WriteDir)
		if errors.Is(err, tfs.ErrFormat) {
			return fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
		}
		return err
	}
	if root.Key == "" {
		return s.private(ctx, dst, build)
	}
	name := digest(diskFormat, root.Key, sum(disk.Boot), sum(disk.Kernel)) + diskSuffix
	return s.obtain(ctx, filepath.Join(s.rootsDir(), name), dst, build)
}

func readKernel(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w: run uni kernel install nanos, or set nanos.kernel in the configuration", unikernel.ErrNotFound, err)
	}
	return data, nil
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// Configure makes dst a container's own layer over base, which BootDisk made
// beside it, of the Format raw or that of a finished disk: it holds the
// configuration, and takes what the guest writes, up to about sizeBytes. The
// disks of the volumes are made beside it, in place of those of an earlier
// layer, and returned. dst must not exist; after an error neither it nor a
// volume does.
//
// A program that is not there is unikernel.ErrNotFound, one that only another
// guest can run ErrNotImplemented, one that none can, because its loader or a
// library is missing, ErrInvalid. A mount in another one is ErrNotImplemented. A
// bind mount's source that is too large or missing is unikernel.ErrInvalid. Sources that did
// not change for some seconds and lie on a file system that keeps track of
// changes share their disks with other containers.
func (s *Store) Configure(ctx context.Context, base unikernel.Disk, dst string, sizeBytes int64, c unikernel.BootConfig) ([]unikernel.Disk, error) {
	disks, err := s.configure(ctx, base, dst, sizeBytes, c)
	return disks, wrap("configure boot disk", dst, err)
}

func (s *Store) configure(ctx context.Context, base unikernel.Disk, dst string, size int64, c unikernel.BootConfig) (_ []unikernel.Disk, err error) {
	f, err := os.Open(base.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	disk, diskSize, err := openFormat(f, base.Format)
	if err != nil {
		return nil, err
	}
	image, err := tfs.Open(disk, diskSize)
	if err != nil {
		return nil, err
	}
	v := newView(image.Root)
	defer v.close()
	add, err := planMounts(v, c)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			removeDisks(add.disks())
		}
	}()
	if err := s.makeVolumes(ctx, filepath.Dir(dst), add.mounts, size); err != nil {
		return nil, err
	}
	for _, m := range add.mounts {
		if m.Source != "" {
			v.volumes[m.at].disk = m.disk.Path
		}
	}
	program, err := findProgram(v, c)
	if err != nil {
		return nil, err
	}
	if err := judge(viewFiles{v}, program, c); err != nil {
		return nil, err
	}
	files, err := readFiles(c.Files)
	if err != nil {
		return nil, err
	}
	added, err := image.Append(tfs.Config{Settings: append(settings(program, c), add.settings()...),
		Directories: add.directories, Files: append(files, add.links...)})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	return add.disks(), s.writeLayer(base, dst, diskSize+size, image, added)
}

func removeDisks(list []unikernel.Disk) {
	for _, d := range list {
		if d.Path != "" {
			os.Remove(d.Path)
		}
	}
}

// writeLayer writes a layer of about size bytes that holds chunks.
func (s *Store) writeLayer(base unikernel.Disk, dst string, size int64, image *tfs.Image, added []tfs.Chunk) error {
	// The kernel's last words get a cluster of their own, so that the guest's
	// writing them changes nothing else: Record can read them while QEMU runs.
	chunks := []qcow2.Chunk{{Offset: image.LogOffset(), Data: make([]byte, tfs.LogSize)}}
	for _, a := range added {
		chunks = append(chunks, qcow2.Chunk(a))
	}
	size = (size + writableUnit - 1) / writableUnit * writableUnit
	return s.newFile(dst, func(f *os.File) error {
		return qcow2.Overlay{Size: size, Backing: filepath.Base(base.Path), BackingFormat: base.Format}.WriteData(f, chunks)
	})
}

// newFile makes a file of a container's own.
func (s *Store) newFile(dst string, write func(*os.File) error) error {
	return create(dst, func(f *os.File) error {
		if err := write(f); err != nil {
			return err
		}
		return s.own(f)
	})
}

// own gives a file to QEMU's user.
func (s *Store) own(f *os.File) error {
	if s.opts.UID > 0 || s.opts.GID > 0 {
		return f.Chown(max(s.opts.UID, 0), max(s.opts.GID, 0))
	}
	return nil
}

// settings are the orders for the kernel.
func settings(program string, c unikernel.BootConfig) tfs.Settings {
	list := tfs.Process(program, c.Args, c.Env, c.Cwd)
	groups := map[string]int{}
	for _, o := range c.Options {
		group, name, ok := strings.Cut(o.Name, ".")
		if !ok {
			list = append(list, tfs.Setting{Name: o.Name, Value: o.Value})
			continue
		}
		at, found := groups[group]
		if !found {
			at = len(list)
			groups[group] = at
			list = append(list, tfs.Setting{Name: group, Value: tfs.Settings(nil)})
		}
		list[at].Value = append(list[at].Value.(tfs.Settings), tfs.Setting{Name: name, Value: o.Value})
	}
	return list
}

// readFiles reads what is to be copied into the disk.
func readFiles(list []unikernel.BootFile) ([]tfs.NewFile, error) {
	var files []tfs.NewFile
	left := int64(unikernel.MaxBootFiles)
	for _, b := range list {
		data, err := readCopy(b.Source, left)
		if err != nil {
			return nil, fmt.Errorf("bind mount of %s at %s: %w", b.Source, b.Path, err)
		}
		left -= int64(len(data))
		files = append(files, tfs.NewFile{Path: b.Path, Data: data})
	}
	return files, nil
}

func readCopy(path string, most int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: this guest gets copies of regular files and nothing else; use the guest \"linux\"", unikernel.ErrNotImplemented)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%w: this guest gets copies, of at most %d bytes in all; use the guest \"linux\"", unikernel.ErrNotImplemented, unikernel.MaxBootFiles)
	}
	return data, err
}

// Record returns what the kernel left on a disk that Configure made.
func (s *Store) Record(overlay string) ([]byte, error) {
	f, err := os.Open(overlay)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	record := make([]byte, tfs.LogSize)
	return record, wrap("read record of", overlay, qcow2.ReadCluster(f, record, tfs.LogOffset))
}
