package kvm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"containerd-shim-uni/integration/image"
)

// Setup is the script that mounts the payload and makes L1 a host of the
// runtime. It fails unless KVM works and the configuration insists on it.
//
//go:embed setup.sh
var Setup string

// Mount is where L1 has the payload. It is a checkout without sources: out/,
// and a folder for each package, from which the tests of one run.
const Mount = "/opt/uni"

// Payload says what is put on the second disk.
type Payload struct {
	Checkout string   // top folder of this repository, built
	Cache    string   // the runtime's cache directory
	Tests    []string // packages whose tests are built, such as "./libvirt"
	Programs []string // packages that are built as programs
	Peers    []string // containerd versions, folders of Cache/peers
	Tools    []string // patterns of further folders there, one folder each
	Nanos    string   // a directory with a kernel of Nanos, or empty
}

// Env is what tests and programs of the payload run with.
func (p Payload) Env() []string {
	env := []string{
		"XDG_CACHE_HOME=" + Mount + "/cache",
		image.ProgramsVariable + "=" + Mount + "/programs",
		"UNI_QEMU_TESTS=1",
		"UNI_TEST_ACCEL=kvm",
		"UNI_TEST_PATIENCE=4", // five machines at once take more than a minute
		"UNI_TEST_PEERS=" + strings.Join(p.Peers, ","),
	}
	if p.Nanos != "" {
		env = append(env, "UNI_NANOS_DIR="+Mount+"/nanos")
	}
	return env
}

// Exports are the commands of a shell that set an environment; the last of
// several values of a variable counts.
func Exports(env []string) string {
	var s strings.Builder
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(&s, "export %s=%q\n", name, value)
	}
	return s.String()
}

// Test is the path in L1 of a package's tests, and Folder where they run.
func Test(pkg string) string    { return Mount + "/bin/" + slug(pkg) + ".test" }
func Program(pkg string) string { return Mount + "/bin/" + slug(pkg) }
func Folder(pkg string) string  { return filepath.Join(Mount, pkg) }

func slug(pkg string) string { return strings.ReplaceAll(strings.TrimPrefix(pkg, "./"), "/", "-") }

// New makes the payload's disk below dir, where it needs about 1 GB, and returns its path.
func (p Payload) New(ctx context.Context, dir string) (string, error) {
	tree, disk := filepath.Join(dir, "payload"), filepath.Join(dir, "payload.img")
	for _, step := range []func(context.Context, string) error{p.install, p.copy, p.build, p.programs} {
		if err := step(ctx, tree); err != nil {
			return "", fmt.Errorf("payload: %w", err)
		}
	}
	if err := command(ctx, "", "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-d", tree, disk, "4G"); err != nil {
		return "", err
	}
	return disk, os.RemoveAll(tree)
}

// install installs the product as for a package, with a configuration that
// refuses emulation.
func (p Payload) install(ctx context.Context, tree string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.Checkout, "deploy/install.sh"))
	cmd.Env = append(os.Environ(), "DESTDIR="+filepath.Join(tree, "root"), "PREFIX=/usr/local")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install: %w: %s", err, out)
	}
	config := filepath.Join(tree, "root/etc/uni/config.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	accel := regexp.MustCompile(`(?m)^#? ?accel = .*$`)
	if !accel.Match(text) {
		return errors.New("the installed configuration has no line for accel")
	}
	return os.WriteFile(config, accel.ReplaceAll(text, []byte(`accel = "kvm"`)), 0o644)
}

// copy takes over what was built before.
func (p Payload) copy(ctx context.Context, tree string) error {
	from := map[string]string{
		"out/bin":   filepath.Join(p.Checkout, "out/bin"),
		"out/guest": filepath.Join(p.Checkout, "out/guest"),
		"deploy":    filepath.Join(p.Checkout, "deploy"),
	}
	for _, pattern := range p.Tools {
		found, err := filepath.Glob(filepath.Join(p.Cache, "peers", pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("one of %s is wanted below %s/peers, there are %d (%v): make peers", pattern, p.Cache, len(found), err)
		}
		from["cache/containerd-shim-uni/peers/"+filepath.Base(found[0])] = found[0]
	}
	for _, peer := range p.Peers {
		from["cache/containerd-shim-uni/peers/"+peer] = filepath.Join(p.Cache, "peers", peer)
	}
	if p.Nanos != "" {
		from["nanos"] = p.Nanos
		// Some of its tests serve with Python, made of packages that L1 cannot get.
		python := filepath.Join(p.Cache, "images/python")
		if err := os.MkdirAll(filepath.Dir(python), 0o755); err != nil {
			return err
		}
		if _, err := image.Python("python", python); err != nil {
			return err
		}
		from["cache/containerd-shim-uni/images/python"] = python
	}
	for to, source := range from {
		to = filepath.Join(tree, to)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := command(ctx, "", "cp", "-a", source+"/.", to); err != nil {
			return err
		}
	}
	return nil
}

// build builds tests and programs.
func (p Payload) build(ctx context.Context, tree string) error {
	at := func(path string) string { return filepath.Join(tree, strings.TrimPrefix(path, Mount)) }
	for _, pkg := range p.Tests {
		if err := os.MkdirAll(at(Folder(pkg)), 0o755); err != nil {
			return err
		}
		if err := command(ctx, p.Checkout, "go", "test", "-c", "-o", at(Test(pkg)), pkg); err != nil {
			return err
		}
	}
	for _, pkg := range p.Programs {
		if err := command(ctx, p.Checkout, "go", "build", "-buildvcs=false", "-o", at(Program(pkg)), pkg); err != nil {
			return err
		}
	}
	return nil
}

// programs builds what images are made of: L1 has no compilers.
func (p Payload) programs(_ context.Context, tree string) error {
	dir := filepath.Join(tree, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return image.BuildAll(filepath.Join(p.Checkout, "integration/image/program"), dir)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
