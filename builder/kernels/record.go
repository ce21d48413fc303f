package kernels

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"containerd-shim-uni/unikernel"
)

// recordName is the file beside a guest's kernel that says where it is from.
const recordName = "guest.json"

// maxRecord is far more than a record takes, in bytes.
const maxRecord = 64 << 10

// Record says what the guest "linux" was made from, as deploy/record.sh wrote it.
type Record struct {
	Kernel struct {
		Part
		// ConfigSHA256 is that of the kernel's configuration.
		ConfigSHA256 string `json:"config_sha256"`
		Source       Source `json:"source"`
	} `json:"kernel"`
	Initrd struct {
		Part
		// Go is the version of the compiler of PID 1.
		Go string `json:"go"`
	} `json:"initrd"`
	// Version is that of this project.
	Version string `json:"version"`
}

// Part is a file of the guest.
type Part struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// Source is a package of the distribution with a kernel's source.
type Source struct {
	Package string `json:"package"`
	Version string `json:"version"`
	// SHA256 is that of the archive in it.
	SHA256 string `json:"sha256"`
}

// ReadRecord reads the record beside a kernel. Without one it is fs.ErrNotExist.
func ReadRecord(kernel string) (Record, error) {
	var r Record
	f, err := os.Open(filepath.Join(filepath.Dir(kernel), recordName))
	if err != nil {
		return r, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return r, nil
}

// Check says whether a file is the part, unikernel.ErrInvalid if it is another.
func (p Part) Check(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("%w: %s has the SHA-256 %s, and was made with %s", unikernel.ErrInvalid, path, got, p.SHA256)
	}
	return nil
}
