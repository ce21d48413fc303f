package qemufiles

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// descriptionDirs are where libvirt looks for descriptions of QEMU's helpers,
// the most important first (QEMU, docs/interop/vhost-user.json).
var descriptionDirs = []string{"/etc/qemu/vhost-user", "/usr/local/share/qemu/vhost-user", "/usr/share/qemu/vhost-user"}

// VirtiofsdAdvice says how to get what FindVirtiofsd looks for.
const VirtiofsdAdvice = "install virtiofsd (Debian 12: it is in qemu-system-common, later a package of its own)"

// ErrNoVirtiofsd says that no virtiofsd is described, or that what is described
// is not there.
var ErrNoVirtiofsd = errors.New("no virtiofsd")

// Virtiofsd is the daemon that libvirt starts to share a directory.
type Virtiofsd struct {
	// Binary is its program, Description the file that names it.
	Binary, Description string
	// Features are those that the description lists.
	Features []string
}

// SeparateOptions is a feature of the daemon in Rust: options of its own for
// what the one in C takes by -o (virtiofsd, 50-virtiofsd.json). QEMU had the
// one in C up to version 7; it describes no features.
const SeparateOptions = "separate-options"

// InC says that it is the daemon in C, of QEMU up to version 7.
func (v Virtiofsd) InC() bool { return !slices.Contains(v.Features, SeparateOptions) }

// String returns the program and which of the two it is.
func (v Virtiofsd) String() string {
	if v.InC() {
		return v.Binary + ", the one in C of QEMU up to version 7"
	}
	return v.Binary + ", the one in Rust"
}

// Limits are what is not as on the host in a directory that this daemon
// shares, the way we start it.
func (v Virtiofsd) Limits() []string {
	both := []string{"locks do not reach the host's processes"}
	if v.InC() {
		return append([]string{"a shared mapping of a file that is open for appending writes to the wrong place"}, both...)
	}
	return both
}

// FindVirtiofsd returns the daemon that libvirt would start. Of the
// descriptions of type "fs" it takes the first in the order of their names; one
// in a more important directory stands for those of the same name, and an empty
// one hides them. An error wraps ErrNoVirtiofsd and names the file it is about.
// root is put before all paths; empty for this host.
func FindVirtiofsd(root string) (Virtiofsd, error) {
	files := map[string]string{} // by name
	for _, dir := range descriptionDirs {
		entries, err := os.ReadDir(root + dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Virtiofsd{}, fmt.Errorf("%w: %w", ErrNoVirtiofsd, err)
		}
		for _, e := range entries {
			if _, ok := files[e.Name()]; !ok && filepath.Ext(e.Name()) == ".json" {
				files[e.Name()] = filepath.Join(dir, e.Name())
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		v, err := describe(root, files[name])
		if v.Binary != "" || err != nil {
			return v, err
		}
	}
	return Virtiofsd{}, fmt.Errorf("%w is described in */qemu/vhost-user", ErrNoVirtiofsd)
}

// describe reads one description; of something else there is no Binary.
func describe(root, file string) (Virtiofsd, error) {
	text, err := os.ReadFile(root + file)
	if err != nil {
		return Virtiofsd{}, fmt.Errorf("%w: %w", ErrNoVirtiofsd, err)
	}
	if len(text) == 0 {
		return Virtiofsd{}, nil
	}
	var d struct {
		Type, Binary string
		Features     []string
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return Virtiofsd{}, fmt.Errorf("%w: libvirt cannot read %s: %w", ErrNoVirtiofsd, file, err)
	}
	if d.Type != "fs" {
		return Virtiofsd{}, nil
	}
	info, err := os.Stat(root + d.Binary)
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return Virtiofsd{}, fmt.Errorf("%w: %s names %q, which is not there", ErrNoVirtiofsd, file, d.Binary)
	}
	return Virtiofsd{Binary: d.Binary, Description: file, Features: d.Features}, nil
}
