package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Busybox is a small system made of one static busybox (Debian's
// busybox-static) with a link for each of its applets.
func Busybox(name, busybox string) (Image, error) {
	out, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return Image{}, fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	links := map[string]string{"bin/sh": "/bin/busybox"}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "bin/busybox" && applet != "linuxrc" {
			links[applet] = "/bin/busybox"
		}
	}
	layer := func(t *tar.Writer) error {
		w := &writer{t: t}
		for _, dir := range []string{"bin/", "etc/", "root/", "sbin/", "usr/", "usr/bin/", "usr/sbin/", "var/"} {
			w.dir(dir, 0o755)
		}
		w.dir("tmp/", 0o1777)
		w.text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nbin:x:2:2:bin:/bin:/bin/false\nsys:x:3:3:sys:/dev:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\nuser:x:1000:1000:user:/tmp:/bin/sh\n")
		w.text("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nwww-data:x:33:\nnogroup:x:65534:\nuser:x:1000:\nextra:x:2000:user\n")
		w.text("etc/notexec", 0o644, "not a program\n")
		w.text("etc/noformat", 0o755, "not a program either\n")
		w.file("bin/busybox", 0o755, busybox)
		for _, link := range slices.Sorted(maps.Keys(links)) {
			w.link(link, links[link])
		}
		return w.first
	}
	return Image{Name: name, Layer: layer, Config: v1.ImageConfig{Env: []string{defaultPath}, Cmd: []string{"sh"}}}, nil
}

// Single holds nothing but one static program, as a scratch image does.
func Single(name, program string) Image { return single(name, program, 0o755) }

// single is Single with a mode of the file.
func single(name, program string, mode int64) Image {
	layer := func(t *tar.Writer) error {
		w := &writer{t: t}
		w.file(filepath.Base(program), mode, program)
		return w.first
	}
	return Image{Name: name, Layer: layer, Config: v1.ImageConfig{Entrypoint: []string{"/" + filepath.Base(program)}}}
}

// ProgramsVariable names the variable with a directory that BuildAll filled:
// Build and BuildProgram take programs from there, on hosts without compilers.
const ProgramsVariable = "UNI_TEST_PROGRAMS"

// programs are those that Build knows, each a folder of this one.
var programs = []string{"euid", "hello", "pod", "probe", "shares"}

// BuildAll builds every program that Build and BuildProgram can, below dir;
// source is the folder program.
func BuildAll(source, dir string) error {
	for _, name := range programs {
		for _, architecture := range []string{"amd64", "arm64"} {
			if _, err := Build(dir, name, architecture); err != nil {
				return err
			}
		}
	}
	for _, protocol := range Protocols {
		if _, err := BuildProgram(source, dir, protocol); err != nil {
			return err
		}
	}
	return nil
}

// BuildHello is Build for the program hello.
func BuildHello(dir, architecture string) (string, error) { return Build(dir, "hello", architecture) }

// Build builds one of the static programs of this folder, such as hello, for an
// architecture, Go's name of it, below dir and returns its path.
func Build(dir, name, architecture string) (string, error) {
	if !slices.Contains(programs, name) { // a host without compilers would not have it
		return "", fmt.Errorf("there is no program %q to build; those of this package are %q", name, programs)
	}
	if built := os.Getenv(ProgramsVariable); built != "" {
		return filepath.Join(built, architecture, name), nil
	}
	program := filepath.Join(dir, architecture, name)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program,
		"containerd-shim-uni/integration/image/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+architecture)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s for %s: %w: %s", name, architecture, err, out)
	}
	return program, nil
}

// Tree holds a whole directory of the host; owners become root, times are kept.
func Tree(name, dir string, config v1.ImageConfig) Image {
	return Image{Name: name, Config: config, Layer: func(t *tar.Writer) error {
		return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || p == dir {
				return err
			}
			return addHost(t, dir, p, d)
		})
	}}
}

func addHost(t *tar.Writer, dir, p string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(dir, p)
	if err != nil {
		return err
	}
	h.Name = filepath.ToSlash(rel)
	if d.IsDir() {
		h.Name += "/"
	}
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if err := t.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	return copyFile(t, p)
}

// writer adds entries with fixed times and keeps the first error.
type writer struct {
	t     *tar.Writer
	first error
}

func (w *writer) add(name string, kind byte, mode, size int64, target string, body func(io.Writer) error) {
	if w.first != nil {
		return
	}
	h := tar.Header{Name: name, Typeflag: kind, Mode: mode, Size: size, Linkname: target, ModTime: time.Unix(0, 0)}
	if w.first = w.t.WriteHeader(&h); w.first == nil && body != nil {
		w.first = body(w.t)
	}
}

func (w *writer) dir(name string, mode int64) { w.add(name, tar.TypeDir, mode, 0, "", nil) }

func (w *writer) link(name, target string) { w.add(name, tar.TypeSymlink, 0o777, 0, target, nil) }

func (w *writer) text(name string, mode int64, body string) {
	w.add(name, tar.TypeReg, mode, int64(len(body)), "", func(to io.Writer) error {
		_, err := io.WriteString(to, body)
		return err
	})
}

func (w *writer) file(name string, mode int64, from string) {
	info, err := os.Stat(from)
	if err != nil {
		w.first = errors.Join(w.first, err)
		return
	}
	w.add(name, tar.TypeReg, mode, info.Size(), "", func(to io.Writer) error { return copyFile(to, from) })
}

func copyFile(to io.Writer, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}
