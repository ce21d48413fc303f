package kernels

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Fault is a file of an installed version that is not as it was installed.
type Fault struct {
	File string `json:"file"`
	Text string `json:"text"`
}

// Verify compares an installed version with the digests it was installed with,
// and returns what is not right: files that are missing, changed or new. An
// error is for a version that could not be judged.
func (s *Store) Verify(ctx context.Context, version string) ([]Fault, error) {
	i, err := s.find(version)
	if err != nil {
		return nil, err
	}
	if i.Err != nil {
		return []Fault{{manifestName, i.Err.Error()}}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return verify(i.Dir, i.Manifest)
}

func verify(dir string, m Manifest) (faults []Fault, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	known := map[string]bool{manifestName: true}
	for _, f := range m.Files {
		known[f.Name] = true
		if text := compare(root, f); text != "" {
			faults = append(faults, Fault{f.Name, text})
		}
	}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !known[name] {
			faults = append(faults, Fault{name, "was not installed"})
		}
		return err
	})
	return faults, err
}

// compare says what is wrong with a file, empty for nothing.
func compare(root *os.Root, want File) string {
	st, err := root.Lstat(want.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is missing"
	case err != nil:
		return err.Error()
	case !st.Mode().IsRegular():
		return "is no file"
	case st.Size() != want.Size:
		return fmt.Sprintf("has %d bytes, not %d", st.Size(), want.Size)
	}
	f, err := root.Open(want.Name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err.Error()
	}
	if got := hexSum(sum); got != want.SHA256 {
		return "has the SHA-256 " + got + ", not " + want.SHA256
	}
	return ""
}
