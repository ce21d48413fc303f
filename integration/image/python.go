package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// pythonPackages are Debian 12's Python with a large library and everything
// they link to: more than 100 MB in some 5000 files.
var pythonPackages = []string{
	"libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8", "libgcc-s1", "liblzma5",
	"libpython3.11-minimal", "libpython3.11-stdlib", "libsqlite3-0", "libssl3", "libuuid1",
	"python3-botocore", "python3-dateutil", "python3-jmespath", "python3-six", "python3-urllib3",
	"python3.11", "python3.11-minimal", "zlib1g",
}

// Python unpacks Debian's packages (apt-get download, no root needed for it)
// into dir, which it creates, and returns the image of that tree.
func Python(name, dir string) (Image, error) {
	if _, err := os.Stat(dir); err != nil {
		if err := unpack(dir, pythonPackages); err != nil {
			return Image{}, fmt.Errorf("make image %s: %w", name, err)
		}
	}
	config := v1.ImageConfig{Env: []string{defaultPath, "LANG=C.UTF-8"}, Cmd: []string{"python3"}}
	return Tree(name, dir, config), nil
}

// unpack fills dir or leaves none.
func unpack(dir string, packages []string) error {
	work, err := os.MkdirTemp(filepath.Dir(dir), "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	debs, tree := filepath.Join(work, "debs"), filepath.Join(work, "tree")
	for _, d := range []string{debs, tree} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	get := exec.Command("apt-get", append([]string{"download", "-q", "-o", "APT::Sandbox::User=root"}, packages...)...)
	get.Dir = debs
	if out, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w: %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range files {
		if out, err := exec.Command("dpkg-deb", "-x", deb, tree).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb -x %s: %w: %s", filepath.Base(deb), err, out)
		}
	}
	if err := os.Symlink("python3.11", filepath.Join(tree, "usr/bin/python3")); err != nil {
		return err
	}
	return os.Rename(tree, dir)
}
