package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"containerd-shim-uni/integration/image"
)

const (
	uniRuntime   = "io.containerd.uni.v1"
	busybox      = "uni.local/busybox:latest"
	hello        = "uni.local/hello:latest"
	python       = "uni.local/python:latest"
	probe        = "uni.local/probe:latest"
	sharesImage  = "uni.local/shares:latest"
	foreign      = "uni.local/foreign:latest"
	pythonFolder = "images/python"
)

// versions are the containerd versions integration/peers.sh prepares.
var versions = []string{"1.6.20", "1.7.34", "2.4.2"}

// world is what all tests of one run share.
var world struct {
	dir     string // of this run, removed at its end
	out     string // the checkout's out/
	cache   string // ~/.cache/containerd-shim-uni
	runtime string

	hosts map[string]*host
}

func TestMain(m *testing.M) {
	if os.Getenv(asProbe) != "" {
		if err := answerTries(); err != nil {
			fmt.Fprintln(os.Stderr, "probe:", err)
			os.Exit(1)
		}
		return
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if err := prepare(); err != nil {
		return 1, err
	}
	defer func() {
		for _, h := range world.hosts {
			err = errors.Join(err, h.end())
		}
		if os.Getenv("UNI_TEST_KEEP") != "" || code != 0 {
			fmt.Println("logs are kept below", world.dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(world.dir))
	}()
	return m.Run(), nil
}

// prepare checks that everything is there, before any test fails for lack of
// it in a way that is harder to read.
func prepare() error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	world.cache = filepath.Join(cache, "containerd-shim-uni")
	if world.out, err = filepath.Abs("../out"); err != nil {
		return err
	}
	world.runtime = uniRuntime
	if r := os.Getenv("UNI_TEST_RUNTIME"); r != "" {
		world.runtime = r
	}
	world.hosts = map[string]*host{}
	if only := os.Getenv("UNI_TEST_PEERS"); only != "" {
		versions = strings.Split(only, ",")
	}
	if err := missing(); err != nil {
		return err
	}
	world.dir, err = os.MkdirTemp("", "uni-")
	if err != nil {
		return err
	}
	// QEMU may run as a user of its own and must reach its disks.
	if err := os.Chmod(world.dir, 0o755); err != nil {
		return err
	}
	return makeImages()
}

// missing is an error that names what is not there and how to get it.
func missing() error {
	var errs []error
	for _, program := range []string{"qemu-system-x86_64", "mke2fs", "runc", "busybox", "libvirtd", "virtlogd", "virsh", "unshare", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, fmt.Errorf("%s is missing: make deps", program))
		}
	}
	for _, v := range versions {
		if !exists(filepath.Join(world.cache, "peers", v, "containerd")) {
			errs = append(errs, fmt.Errorf("containerd %s is missing: make peers", v))
		}
	}
	if world.runtime == uniRuntime {
		for _, f := range []string{"bin/containerd-shim-uni-v1", "bin/uni-shim", "guest/vmlinux", "guest/initrd.img"} {
			if !exists(filepath.Join(world.out, f)) {
				errs = append(errs, fmt.Errorf("out/%s is missing: make build guest", f))
			}
		}
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// archive is where the image of a reference lies before its import.
func archive(name string) string {
	base, _, _ := strings.Cut(filepath.Base(name), ":")
	return filepath.Join(world.dir, base+".tar")
}

func makeImages() error {
	program, err := image.BuildHello(world.dir, "amd64")
	if err != nil {
		return err
	}
	arm, err := image.BuildHello(world.dir, "arm64")
	if err != nil {
		return err
	}
	bb, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	box, err := image.Busybox(busybox, bb)
	if err != nil {
		return err
	}
	sharer, err := image.Build(world.dir, "shares", "amd64")
	if err != nil {
		return err
	}
	prober, err := image.Build(world.dir, "probe", "amd64")
	if err != nil {
		return err
	}
	other := image.Single(foreign, arm)
	other.Architecture = "arm64"
	for _, i := range []image.Image{box, image.Single(hello, program), image.Single(probe, prober), image.Single(sharesImage, sharer), other} {
		if err := i.WriteFile(archive(i.Name)); err != nil {
			return err
		}
	}
	return nil
}

// makePython writes the archive of Python's image, which is large, when a test
// first asks for it.
var makePython = sync.OnceValue(func() error {
	if err := os.MkdirAll(filepath.Join(world.cache, filepath.Dir(pythonFolder)), 0o755); err != nil {
		return err
	}
	py, err := image.Python(python, filepath.Join(world.cache, pythonFolder))
	if err != nil {
		return err
	}
	return py.WriteFile(archive(python))
})

// needPython sees to it that the archive is there.
func needPython(t *testing.T) {
	t.Helper()
	if err := makePython(); err != nil {
		t.Fatal(err)
	}
}
