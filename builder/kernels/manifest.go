package kernels

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	manifestName   = "manifest.json"
	manifestFormat = 1
	// maxManifest is far more than the names of any release take, in bytes.
	maxManifest = 1 << 20
)

// Manifest describes an installed release.
type Manifest struct {
	// Format is manifestFormat.
	Format  int    `json:"format"`
	Version string `json:"version"`
	// Commit is the source revision the kernel says it was built from.
	Commit string `json:"commit,omitempty"`
	// Source is the directory, file or URL that it came from.
	Source string `json:"source"`
	// Archive is nil for a release that came from a directory.
	Archive   *Archive  `json:"archive,omitempty"`
	Installed time.Time `json:"installed"`
	// Files are sorted by name.
	Files []File `json:"files"`
}

// Archive is the file that a release came in.
type Archive struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Checked says what the archive was compared with: checkedSHA256,
	// checkedMD5 or nothing.
	Checked string `json:"checked,omitempty"`
}

// What an archive can have been compared with.
const (
	checkedSHA256 = "the SHA-256 given by the operator"
	checkedMD5    = "the MD5 published beside it"
)

// File is one file of a release.
type File struct {
	// Name is relative to the version's directory.
	Name string `json:"name"`
	// Size is in bytes.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Size is that of all files, in bytes.
func (m Manifest) Size() (n int64) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// readManifest reads that of the version in dir.
func readManifest(dir string) (m Manifest, err error) {
	path := filepath.Join(dir, manifestName)
	data, err := readFile(path, maxManifest)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	if m.Format != manifestFormat || m.Version != filepath.Base(dir) || len(m.Files) == 0 {
		return m, invalid("%s is of format %d for version %q with %d files", path, m.Format, m.Version, len(m.Files))
	}
	return m, nil
}

// writeManifest writes it into a directory that nobody knows yet.
func writeManifest(root *os.Root, m Manifest) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(root, manifestName, func(f *os.File) error {
		_, err := f.Write(append(data, '\n'))
		return err
	})
}
