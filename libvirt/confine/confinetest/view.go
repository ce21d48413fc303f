package confinetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// View returns the files below a process's root, but for directories, with spaces
// between them.
func View(t *testing.T, pid int) string {
	t.Helper()
	root := fmt.Sprintf("/proc/%d/root/", pid)
	var found []string
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, "/"+strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}
