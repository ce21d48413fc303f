// Conformance runs the suites of integration/conformance on runc and on this
// runtime, one after the other, and prints a table:
//
//	conformance [-suite NAME,NAME] [-run REGEXP] [-theirs DIR] [-sandbox-api] [-timeout D]
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
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"containerd-shim-uni/integration/conformance"
)

// expectedFile is below the checkout.
const expectedFile = "integration/conformance/expected.txt"

// options are the flags.
type options struct {
	suites       []string
	only, theirs string
	sandboxAPI   bool
	timeout      time.Duration
	cache        string // ~/.cache/containerd-shim-uni
}

func main() {
	suites := flag.String("suite", "client,critest", "suites, separated by commas")
	var o options
	flag.StringVar(&o.only, "run", "", "tests, a regular expression")
	flag.StringVar(&o.theirs, "theirs", "", "`DIR`ectory with the logs of earlier runs on runc, in place of runs")
	flag.BoolVar(&o.sandboxAPI, "sandbox-api", false, "pods of critest are made by the shim (sandboxer = \"shim\")")
	flag.DurationVar(&o.timeout, "timeout", 90*time.Minute, "of each run")
	flag.Parse()
	o.suites = strings.Split(*suites, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	part := prepare
	if conformance.Inside() {
		part = run
	}
	err := part(ctx, o)
	stop()
	if errors.Is(err, conformance.ErrSaid) {
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// prepare builds what is missing and runs this program once more in a network
// namespace of its own.
func prepare(ctx context.Context, o options) error {
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
	return conformance.GoInside(ctx)
}

// run runs the suites and compares.
func run(ctx context.Context, o options) error {
	if err := conformance.Loopback(); err != nil {
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
		found = append(found, c.Findings(name, expectedFile))
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
	host, err := conformance.Environment(dir, o.cache, "2.4.2")
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
		r, err := s.Run(ctx, conformance.Place{Runtime: runtime, Only: o.only, Timeout: o.timeout, Env: host, SandboxAPI: o.sandboxAPI && runtime == "uni",
			Log: where, Cache: o.cache, Dir: work, Deploy: "deploy", State: conformance.StateDir(dir)})
		if err != nil {
			return nil, fmt.Errorf("%s on %s: %w; its output is %s", name, runtime, err, where)
		}
		results = append(results, r)
	}
	return results, nil
}
