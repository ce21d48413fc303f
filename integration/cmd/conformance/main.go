// Conformance runs the suites of integration/conformance on runc and on this
// runtime, one after the other, and prints a table:
//
//	conformance [-suite NAME,NAME] [-run REGEXP] [-theirs DIR] [-timeout D]
//
// It needs root, the module proxy and what "make build guest peers" prepares. The
// test programs are built once, below ~/.cache/containerd-shim-uni/conformance. The
// tests run in a network namespace of their own, where nothing but loopback is. It
// ends with status 1 where the runs and expected.txt differ, in either direction.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"containerd-shim-uni/integration/conformance"
)

const (
	// expectedFile is below the checkout.
	expectedFile = "integration/conformance/expected.txt"
	// inside is set for the part of the program that runs tests.
	inside = "UNI_CONFORMANCE_INSIDE"
)

// options are the flags.
type options struct {
	suites       []string
	only, theirs string
	timeout      time.Duration
	cache        string // ~/.cache/containerd-shim-uni
}

func main() {
	suites := flag.String("suite", "client,critest", "suites, separated by commas")
	var o options
	flag.StringVar(&o.only, "run", "", "tests, a regular expression")
	flag.StringVar(&o.theirs, "theirs", "", "`DIR`ectory with the logs of earlier runs on runc, in place of runs")
	flag.DurationVar(&o.timeout, "timeout", 90*time.Minute, "of each run")
	flag.Parse()
	o.suites = strings.Split(*suites, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	part := prepare
	if os.Getenv(inside) != "" {
		part = run
	}
	err := part(ctx, o)
	stop()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		os.Exit(1) // it has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// prepare builds what is missing and runs this program once more in a network
// namespace of its own.
func prepare(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	for _, name := range o.suites {
		s, ok := conformance.Suites[name]
		if !ok {
			return fmt.Errorf("there is no suite %q", name)
		}
		if err := s.Prepare(ctx, filepath.Join(cache, "containerd-shim-uni")); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd.Run()
}

// run runs the suites and compares.
func run(ctx context.Context, o options) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	o.cache = filepath.Join(caches, "containerd-shim-uni")
	dir, err := os.MkdirTemp("", "uni-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // QEMU's user must reach its disks
		return err
	}
	images, err := conformance.Images(ctx, dir, filepath.Join(o.cache, "images/nginx"))
	if err != nil {
		return err
	}
	if err := conformance.Serve(ctx, images); err != nil {
		return err
	}
	f, err := os.Open(expectedFile)
	if err != nil {
		return err
	}
	expected, err := conformance.ParseExpected(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", expectedFile, err)
	}
	var found []error
	fmt.Printf("%-10s %28s %28s\n", "suite", "runc: passed failed skipped", "uni: passed failed skipped")
	for _, name := range o.suites {
		results, err := both(ctx, o, name, dir)
		if err != nil {
			return err
		}
		c := conformance.Compare(results[0], results[1], expected[name])
		fmt.Printf("%-10s %14d %6d %6d %14d %6d %6d\n", name, c.Theirs.Passed, c.Theirs.Failed, c.Theirs.Skipped, c.Ours.Passed, c.Ours.Failed, c.Ours.Skipped)
		for _, t := range c.Unexpected {
			found = append(found, fmt.Errorf("%s: runc passes %s", name, t))
		}
		for _, t := range c.Mended {
			found = append(found, fmt.Errorf("%s: %s passes: remove it from %s", name, t, expectedFile))
		}
	}
	return errors.Join(found...)
}

// both are the results of a suite on runc and on this runtime.
func both(ctx context.Context, o options, name, dir string) (results []conformance.Results, err error) {
	s := conformance.Suites[name]
	work, err := os.MkdirTemp(dir, name)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return nil, err
	}
	host, err := environment(dir, o.cache)
	if err != nil {
		return nil, err
	}
	for _, runtime := range []string{"runc", "uni"} {
		log := "conformance-" + name + "-" + runtime + ".log"
		if runtime == "runc" && o.theirs != "" {
			r, err := s.Read(filepath.Join(o.theirs, log), o.only)
			if err != nil {
				return nil, err
			}
			results = append(results, r)
			continue
		}
		where, err := filepath.Abs(filepath.Join("out/test", log))
		if err != nil {
			return nil, err
		}
		r, err := s.Run(ctx, conformance.Place{Runtime: runtime, Only: o.only, Timeout: o.timeout, Env: host,
			Log: where, Cache: o.cache, Dir: work, Deploy: "deploy", State: stateDir(dir)})
		if err != nil {
			return nil, fmt.Errorf("%s on %s: %w; its output is %s", name, runtime, err, where)
		}
		results = append(results, r)
	}
	return results, nil
}

// stateDir is the runtime's, for a run below a directory.
func stateDir(dir string) string { return "/run/" + filepath.Base(dir) }

// environment is what a suite's containerd and its shims run with.
func environment(dir, cache string) ([]string, error) {
	out, err := filepath.Abs("out")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "uni.toml")
	text := fmt.Sprintf("[linux]\nkernel = %q\ninitrd = %q\n[storage]\nstate_dir = %q\ndata_dir = %q\n",
		out+"/guest/vmlinux", out+"/guest/initrd.img", stateDir(dir), filepath.Join(dir, "lib"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	path := strings.Join([]string{filepath.Join(out, "bin"), filepath.Join(cache, "peers/2.4.2"), os.Getenv("PATH")}, ":")
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") })
	return append(env, "PATH="+path, "UNI_CONFIG="+config), nil
}
