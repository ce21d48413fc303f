package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Images are the names, without a registry, that the suites pull.
var Images = []string{"busybox:1.36", "alpine:3.14.0", "pause:3.10.2", "volume-copy-up:2.2", "volume-ownership:2.1", "nginx:1.27.0"}

// Suite is a program of tests that others wrote.
type Suite struct {
	// Module and Version are where it is, Package which of it.
	Module, Version, Package string
	// Replace are texts that are replaced in files of the module, by file: what
	// names registries.
	Replace map[string][]string
	// Args are further arguments of the program.
	Args []string
}

// Suites by name.
var Suites = map[string]Suite{
	// containerd's own client tests: they start the containerd of $PATH.
	"client": {
		Module: "github.com/containerd/containerd/v2", Version: "v2.4.2", Package: "./integration/client",
		Replace: map[string][]string{"integration/images/image_list.go": {`"ghcr.io/containerd/`, `"` + Address + "/", `"registry.k8s.io/`, `"` + Address + "/"}},
		// TestBindLowPort waits for ever for what this busybox does not do; two need a
		// wrapper of runc; the others have nothing to do with runtimes.
		Args: []string{"-test.root", "-no-criu", "-test.skip=TestBindLowPort|TestIssue9103|TestIssue10589|TestExport|TestImageIsUnpacked|TestContentClient|TestMigration"},
	},
}

// Build makes the suite's program below dir, once, and returns its path.
func (s Suite) Build(ctx context.Context, dir string) (string, error) {
	name := strings.NewReplacer("/", "-", ".", "-").Replace(s.Module+s.Package) + "@" + s.Version
	program := filepath.Join(dir, name+".test")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(dir, "build")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	fmt.Fprintf(os.Stderr, "building the tests of %s %s, some minutes, once\n", s.Module, s.Version)
	module, err := s.download(ctx)
	if err != nil {
		return "", err
	}
	// A copy: files of the module cache are not to be changed.
	if err := os.CopyFS(filepath.Join(work, "m"), os.DirFS(module)); err != nil {
		return "", err
	}
	if err := makeWritable(filepath.Join(work, "m")); err != nil {
		return "", err
	}
	for file, pairs := range s.Replace {
		path := filepath.Join(work, "m", file)
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o644); err != nil {
			return "", err
		}
	}
	out := filepath.Join(work, "test")
	if _, err := goTool(ctx, filepath.Join(work, "m"), "test", "-c", "-tags", "no_btrfs,no_devmapper,no_zfs,no_aufs", "-o", out, s.Package); err != nil {
		return "", err
	}
	return program, os.Rename(out, program)
}

// download returns the module's directory in the module cache.
func (s Suite) download(ctx context.Context) (string, error) {
	if _, err := goTool(ctx, "", "mod", "download", s.Module+"@"+s.Version); err != nil {
		return "", err
	}
	out, err := goTool(ctx, "", "env", "GOMODCACHE")
	return filepath.Join(strings.TrimSpace(out), s.Module+"@"+s.Version), err
}

func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", args[0], err, errs.Bytes())
	}
	return string(out), nil
}

func makeWritable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		return os.Chmod(path, mode)
	})
}

// Place is where a suite runs.
type Place struct {
	Runtime string
	// Only are tests, as for go test; empty for all.
	Only    string
	Timeout time.Duration
	Env     []string
	// Log takes what the program says.
	Log string
}

// Run runs the suite. Tests that fail are no error.
func (s Suite) Run(ctx context.Context, program string, p Place) (Results, error) {
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(p.Log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append([]string{"-test.v", "-test.parallel=1", "-test.timeout=" + p.Timeout.String()}, s.Args...)
	if p.Only != "" {
		args = append(args, "-test.run="+p.Only)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = filepath.Dir(p.Log)
	cmd.Env = append(p.Env, "TEST_RUNTIME="+p.Runtime)
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		return nil, err
	}
	in, err := os.Open(p.Log)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	all, err := Read(in)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no test ran; its output is %s", p.Log)
	}
	return all, err
}
