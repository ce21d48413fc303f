package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// debian is an image made of Debian's packages, without what their scripts do.
type debian struct {
	packages []string
	// links and files are added: targets of links and contents of files, by path.
	links, files map[string]string
	config       v1.ImageConfig
}

// image unpacks the packages (apt-get download, no root needed for it) into
// dir, which it creates, and returns the image of that tree.
func (d debian) image(name, dir string) (Image, error) {
	if _, err := os.Stat(dir); err != nil {
		if err := d.unpack(dir); err != nil {
			return Image{}, fmt.Errorf("make image %s: %w", name, err)
		}
	}
	return Tree(name, dir, d.config), nil
}

// unpack fills dir or leaves none.
func (d debian) unpack(dir string) error {
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
	get := exec.Command("apt-get", append([]string{"download", "-q", "-o", "APT::Sandbox::User=root"}, d.packages...)...)
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
	if err := d.add(tree); err != nil {
		return err
	}
	return os.Rename(tree, dir)
}

func (d debian) add(tree string) error {
	for path, target := range d.links {
		if err := os.Symlink(target, filepath.Join(tree, path)); err != nil {
			return err
		}
	}
	for path, text := range d.files {
		if err := os.WriteFile(filepath.Join(tree, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
