package image

import "testing"

// A program that BuildAll leaves out would be missed only on hosts without compilers.
func TestBuildUnknown(t *testing.T) {
	if path, err := Build(t.TempDir(), "images", "amd64"); err == nil {
		t.Errorf("built %s", path)
	}
}
