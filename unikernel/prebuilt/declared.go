package prebuilt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// File is where an image says what boots, as the JSON of a Config: an object of
// strings, of which at least kernel or disk must be there.
const File = "/uni.json"

// KraftKit's places in an image (kraftkit.sh, oci/wellknown.go).
const (
	kraftKernel  = "/unikraft/bin/kernel"
	kraftInitrd  = "/unikraft/bin/initrd"
	kraftCmdline = "/unikraft/cmdline.txt"
)

// maxDeclared bounds what is read of a file by which an image says what boots, in
// bytes.
const maxDeclared = 64 << 10

// Declaration is what an image itself says of what boots. Empty strings say nothing.
type Declaration struct {
	// Source says where it is said, for errors: "/uni.json".
	Source string
	Config
}

// Find opens a file of an image, as unikernel.Rootfs.Find does.
type Find func(name string) (f unikernel.ImageFile, size int64, err error)

// Declared looks for what an image says of what boots: in the specification's
// annotations and the file that urunc reads, in File, in KraftKit's places. ok is false
// for an ordinary image. What cannot be read, and says what cannot be true, is
// unikernel.ErrInvalid; an image that is made for another monitor than QEMU is
// unikernel.ErrNotImplemented, with what to build instead.
//
// The files are an image's, and as little trusted.
func Declared(s *specs.Spec, find Find) (d Declaration, ok bool, err error) {
	for _, look := range []func(*specs.Spec, Find) (Declaration, bool, error){declaredHere, declaredToUrunc, declaredByKraft} {
		if d, ok, err = look(s, find); ok || err != nil {
			break
		}
	}
	if err != nil {
		return Declaration{}, false, fmt.Errorf("what the image says of its kernel: %s: %w", d.Source, err)
	}
	if !ok {
		return Declaration{}, false, nil
	}
	return d, true, nil
}

// declaredHere reads File.
func declaredHere(_ *specs.Spec, find Find) (Declaration, bool, error) {
	d := Declaration{Source: File}
	data, ok, err := read(find, File)
	if !ok || err != nil {
		return d, false, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d.Config); err != nil {
		return d, false, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	if d.Kernel == "" && d.Disk == "" {
		return d, false, fmt.Errorf("%w: it names neither a kernel nor a disk", unikernel.ErrInvalid)
	}
	return d, true, nil
}

// declaredByKraft looks for what "kraft pkg" puts into an image.
func declaredByKraft(s *specs.Spec, find Find) (Declaration, bool, error) {
	d := Declaration{Source: kraftKernel, Config: Config{Kernel: kraftKernel}}
	if ok, err := exists(find, kraftKernel); !ok || err != nil {
		return d, false, err
	}
	ok, err := exists(find, kraftInitrd)
	if err != nil {
		return d, false, err
	}
	if ok {
		d.Initrd = kraftInitrd
	}
	line, _, err := read(find, kraftCmdline)
	if err != nil {
		return d, false, err
	}
	if d.Cmdline, err = unikraftLine(s, "", d.Initrd != "", string(line)); err != nil {
		return d, false, err
	}
	return d, true, nil
}

// read returns a small file of an image.
func read(find Find, name string) (data []byte, ok bool, err error) {
	if find == nil {
		return nil, false, nil
	}
	f, size, err := find(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if size > maxDeclared {
		return nil, false, fmt.Errorf("%w: %s has %d bytes, at most %d are read", unikernel.ErrInvalid, name, size, maxDeclared)
	}
	data, err = io.ReadAll(io.NewSectionReader(f, 0, maxDeclared))
	if err == nil && !utf8.Valid(data) {
		err = fmt.Errorf("%w: %s is no text in UTF-8", unikernel.ErrInvalid, name)
	}
	return data, err == nil, err
}

// exists says whether an image has a file.
func exists(find Find, name string) (bool, error) {
	if find == nil {
		return false, nil
	}
	f, _, err := find(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// literal makes text that stands for itself in a Template.
func literal(text string) string {
	return strings.NewReplacer("{", "{{", "}", "}}").Replace(text)
}
