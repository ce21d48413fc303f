package image

import (
	"archive/tar"
	"io"
	"math/rand/v2"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// runtimePackages are what the C and C++ programs of Debian 12 need.
var runtimePackages = []string{"libc6", "libgcc-s1", "libstdc++6", "libssl3", "zlib1g"}

// Nginx is the image of Debian's nginx, as one process that serves its welcome
// page, unpacked into dir.
func Nginx(name, dir string) (Image, error) {
	return debian{
		packages: append([]string{"nginx", "nginx-common", "libpcre2-8-0", "libcrypt1"}, runtimePackages...),
		files: map[string]string{
			"etc/passwd":           "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
			"etc/group":            "root:x:0:\nnogroup:x:65534:\n",
			"etc/nginx/nginx.conf": "events {}\nhttp { access_log off; server { listen 80; root /usr/share/nginx/html; } }\n",
		},
		config: v1.ImageConfig{Env: []string{defaultPath},
			Cmd: []string{"nginx", "-g", "user root root; daemon off; master_process off; error_log stderr;"}},
	}.image(name, dir)
}

// Redis is the image of Debian's redis-server, unpacked into dir.
func Redis(name, dir string) (Image, error) {
	return debian{
		packages: append([]string{
			"redis-server", "redis-tools", "libatomic1", "libcap2", "libgcrypt20", "libgpg-error0", "libjemalloc2",
			"liblz4-1", "liblzf1", "liblzma5", "libsystemd0", "libzstd1",
		}, runtimePackages...),
		config: v1.ImageConfig{Env: []string{defaultPath}, Cmd: []string{"redis-server", "--protected-mode", "no", "--save", ""}},
	}.image(name, dir)
}

// Node is the image of Debian's node with a server of one line, unpacked into
// dir. The release is named because a host may have a node from elsewhere.
func Node(name, dir string) (Image, error) {
	return debian{
		packages: append([]string{
			"nodejs/bookworm", "libnode108/bookworm", "libbrotli1", "libc-ares2", "libicu72", "libnghttp2-14", "libuv1",
			"node-acorn", "node-busboy", "node-cjs-module-lexer", "node-undici",
		}, runtimePackages...),
		config: v1.ImageConfig{Env: []string{defaultPath}, Cmd: []string{"node", "-e",
			"require('http').createServer((q, r) => r.end('node serves ' + q.url)).listen(80, '0.0.0.0')"}},
	}.image(name, dir)
}

// With adds a file of size bytes to an image; its bytes are those of Noise.
func (i Image) With(path string, size int64) Image {
	before := i.Layer
	i.Layer = func(t *tar.Writer) error {
		if err := before(t); err != nil {
			return err
		}
		w := &writer{t: t}
		w.add(path, tar.TypeReg, 0o644, size, "", func(to io.Writer) error {
			_, err := io.CopyN(to, Noise(), size)
			return err
		})
		return w.first
	}
	return i
}

// Noise is an endless stream of bytes that do not compress, the same each time.
func Noise() io.Reader { return rand.NewChaCha8([32]byte{}) }
