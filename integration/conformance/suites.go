package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Suite is a program of tests that others wrote.
type Suite interface {
	// Prepare makes what Run needs, once, below the cache: that alone may want
	// the network.
	Prepare(ctx context.Context, cache string) error
	// Run runs the tests. Those that fail are no error.
	Run(ctx context.Context, p Place) (Results, error)
	// Read reads what a run left at Place.Log: the tests that a pattern names.
	Read(path, only string) (Results, error)
}

// Suites by name.
var Suites = map[string]Suite{
	// containerd's own client tests: they start the containerd of $PATH.
	"client": module{
		Module: "github.com/containerd/containerd/v2", Version: "v2.4.2", Package: "./integration/client",
		Replace: map[string][]string{"integration/images/image_list.go": {`"ghcr.io/containerd/`, `"` + Address + "/", `"registry.k8s.io/`, `"` + Address + "/"}},
		// TestBindLowPort waits for ever for what this busybox does not do; two need a
		// wrapper of runc; the others have nothing to do with runtimes.
		Args: []string{"-test.root", "-no-criu", "-test.skip=TestBindLowPort|TestIssue9103|TestIssue10589|TestExport|TestImageIsUnpacked|TestContentClient|TestMigration"},
	},
	"critest": critest{},
	// nerdctl's tests of its commands for containers. Those left out are of where its
	// own process puts logs: they take minutes, or want images and services that are
	// not here.
	"nerdctl": nerdctl{module{
		Module: "github.com/containerd/nerdctl/v2", Version: "v2.0.3", Sum: "h1:hdbDSsFHFNehQEbUortBTXpYUOY13bQmLAvtNHBthc8=", Package: "./cmd/nerdctl/container",
		Args: []string{"-test.skip=TestSyslog|Fluentd|Journald|Systemd|MultiPlatform|InternetConnectivity"},
		Replace: map[string][]string{
			"pkg/testutil/testutil_linux.go":                            {`"ghcr.io/containerd/`, `"` + Address + "/", `"ghcr.io/stargz-containers/`, `"` + Address + "/"},
			"pkg/testutil/testutil.go":                                  ownAddress,
			"cmd/nerdctl/container/container_create_linux_test.go":      ownAddress,
			"cmd/nerdctl/container/container_run_network_linux_test.go": ownAddress,
		},
	}},
}

// ownAddress has tests of nerdctl find containerd where it is.
var ownAddress = []string{"defaults.DefaultAddress", `(os.Getenv("` + addressEnv + `") + defaults.DefaultAddress[:0])`}

// Place is where a suite runs.
type Place struct {
	// Runtime is the runtime's name, such as "uni".
	Runtime string
	// Only are tests, a regular expression; empty for all.
	Only    string
	Timeout time.Duration
	Env     []string
	// SandboxAPI has the shim make pods, see peer.CRI.
	SandboxAPI bool
	// Log takes what the program says.
	Log string
	// Cache is what Prepare filled; Dir is a directory of the run, Deploy the
	// checkout's directory of that name.
	Cache, Dir, Deploy string
	// State is the directory of the runtime's machines, which their processes name.
	State string
}

// types are the names by which containerd's clients know the runtimes.
var types = map[string]string{"uni": "io.containerd.uni.v1", "runc": "io.containerd.runc.v2"}

// module is a package of tests in a module.
type module struct {
	// Module and Version are where it is, Package which of it.
	Module, Version, Package string
	// Sum is the module's checksum, as in go.sum, for which no database of checksums is
	// asked then.
	Sum string
	// Replace are texts that are replaced in files of the module, by file: what
	// names registries.
	Replace map[string][]string
	// Args are further arguments of the program.
	Args []string
}

// program is the path of the tests' program.
func (s module) program(cache string) string {
	name := strings.NewReplacer("/", "-", ".", "-").Replace(s.Module+s.Package) + "@" + s.Version
	return filepath.Join(cache, "conformance", name+".test")
}

// Prepare makes the suite's program.
func (s module) Prepare(ctx context.Context, cache string) error {
	program := s.program(cache)
	if _, err := os.Stat(program); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "building the tests of %s %s, some minutes, once\n", s.Module, s.Version)
	module, err := s.download(ctx)
	if err != nil {
		return err
	}
	// A copy: files of the module cache are not to be changed. It stays, for what
	// quotes the line of a test that failed.
	source := strings.TrimSuffix(program, ".test")
	if err := os.RemoveAll(source); err != nil {
		return err
	}
	if err := os.CopyFS(source, os.DirFS(module)); err != nil {
		return err
	}
	if err := makeWritable(source); err != nil {
		return err
	}
	for file, pairs := range s.Replace {
		path := filepath.Join(source, file)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o644); err != nil {
			return err
		}
	}
	out := program + ".new"
	if _, err := goTool(ctx, source, nil, "test", "-c", "-tags", "no_btrfs,no_devmapper,no_zfs,no_aufs", "-o", out, s.Package); err != nil {
		return err
	}
	return os.Rename(out, program)
}

// download returns the module's directory in the module cache.
func (s module) download(ctx context.Context) (string, error) {
	args := []string{"mod", "download", "-json", s.Module + "@" + s.Version}
	var env []string
	if s.Sum != "" {
		env = []string{"GONOSUMDB=" + s.Module}
	}
	out, err := goTool(ctx, "", env, args...)
	if err != nil {
		return "", err
	}
	var m struct{ Dir, Sum string }
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		return "", err
	}
	if s.Sum != "" && m.Sum != s.Sum {
		return "", fmt.Errorf("%s %s has the checksum %s, want %s", s.Module, s.Version, m.Sum, s.Sum)
	}
	return m.Dir, nil
}

func goTool(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOFLAGS=-mod=mod"), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s%s", args[0], err, errs.Bytes(), out)
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

// Run runs the suite with the containerd that it starts.
func (s module) Run(ctx context.Context, p Place) (Results, error) {
	args := append([]string{"-test.v", "-test.parallel=1", "-test.timeout=" + p.Timeout.String()}, s.Args...)
	if p.Only != "" {
		args = append(args, "-test.run="+p.Only)
	}
	cmd := exec.CommandContext(ctx, s.program(p.Cache), args...)
	cmd.Env = append(p.Env, "TEST_RUNTIME="+types[p.Runtime])
	if err := p.logged(cmd); err != nil {
		return nil, err
	}
	return some(s.Read(p.Log, ""))
}

// Read reads the output of "go test -v".
func (module) Read(path, only string) (Results, error) {
	return ReadFile(path, only)
}

// logged runs a program of tests, whose failures are no error, to its end.
func (p Place) logged(cmd *exec.Cmd) error {
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return err
	}
	log, err := os.Create(p.Log)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Dir = filepath.Dir(p.Log)
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		return err
	}
	return nil
}

// some are results, of which there must be one at least.
func some(all Results, err error) (Results, error) {
	if err == nil && len(all) == 0 {
		err = errors.New("no test ran")
	}
	return all, err
}
