package image

import v1 "github.com/opencontainers/image-spec/specs-go/v1"

// pythonPackages are Debian 12's Python with a large library and everything
// they link to: more than 100 MB in some 5000 files.
var pythonPackages = []string{
	"libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8", "libgcc-s1", "liblzma5",
	"libpython3.11-minimal", "libpython3.11-stdlib", "libsqlite3-0", "libssl3", "libuuid1",
	"python3-botocore", "python3-dateutil", "python3-jmespath", "python3-six", "python3-urllib3",
	"python3.11", "python3.11-minimal", "zlib1g",
}

// Python is the image of Debian's Python, unpacked into dir.
func Python(name, dir string) (Image, error) {
	return debian{
		packages: pythonPackages,
		links:    map[string]string{"usr/bin/python3": "python3.11"},
		config:   v1.ImageConfig{Env: []string{defaultPath, "LANG=C.UTF-8"}, Cmd: []string{"python3"}},
	}.image(name, dir)
}
