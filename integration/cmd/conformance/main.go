// Conformance runs the suites of integration/conformance on runc and on this
// runtime, one after the other, and prints a table:
//
//	conformance [-suite NAME,NAME] [-run REGEXP] [-theirs LOG] [-timeout D]
//
// It needs root, the module proxy and what "make build guest peers" prepares. The
// test programs are built once, below ~/.cache/containerd-shim-uni/conformance. It
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

	"containerd-shim-uni/integration/conformance"
	"containerd-shim-uni/integration/image"
)

const (
	uni  = "io.containerd.uni.v1"
	runc = "io.containerd.runc.v2"
	// expectedFile is below the checkout.
	expectedFile = "integration/conformance/expected.txt"
)

func main() {
	suites := flag.String("suite", "client", "suites, separated by commas")
	only := flag.String("run", "", "tests, as for go test")
	theirs := flag.String("theirs", "", "`LOG` of an earlier run on runc, in place of one")
	timeout := flag.Duration("timeout", 90*time.Minute, "of each run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, strings.Split(*suites, ","), *only, *theirs, *timeout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, suites []string, only, theirs string, timeout time.Duration) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "containerd-shim-uni")
	dir, err := os.MkdirTemp("", "uni-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // QEMU's user must reach its disks
		return err
	}
	if err := serve(ctx, dir); err != nil {
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
	host, err := environment(dir, cache)
	if err != nil {
		return err
	}
	var found []error
	fmt.Printf("%-10s %28s %28s\n", "suite", "runc: passed failed skipped", "uni: passed failed skipped")
	for _, name := range suites {
		s, ok := conformance.Suites[name]
		if !ok {
			return fmt.Errorf("there is no suite %q", name)
		}
		program, err := s.Build(ctx, filepath.Join(cache, "conformance"))
		if err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		var results []conformance.Results
		for _, runtime := range []string{runc, uni} {
			if runtime == runc && theirs != "" {
				r, err := conformance.ReadFile(theirs, only)
				if err != nil {
					return err
				}
				results = append(results, r)
				continue
			}
			r, err := s.Run(ctx, program, conformance.Place{Runtime: runtime, Only: only, Timeout: timeout, Env: host,
				Log: filepath.Join("out/test", "conformance-"+name+"-"+runtime+".log")})
			if err != nil {
				return fmt.Errorf("%s on %s: %w", name, runtime, err)
			}
			results = append(results, r)
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

// serve serves a busybox under the names of the images that tests pull.
func serve(ctx context.Context, dir string) error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	box, err := image.Busybox("uni.local/busybox:latest", path)
	if err != nil {
		return err
	}
	archive, layout := filepath.Join(dir, "busybox.tar"), filepath.Join(dir, "busybox")
	if err := box.WriteFile(archive); err != nil {
		return err
	}
	if err := os.Mkdir(layout, 0o755); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-xf", archive, "-C", layout).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	_, err = conformance.Serve(ctx, layout, conformance.Images)
	return err
}

// environment is what a suite's containerd and its shims run with.
func environment(dir, cache string) ([]string, error) {
	out, err := filepath.Abs("out")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "uni.toml")
	text := fmt.Sprintf("[linux]\nkernel = %q\ninitrd = %q\n[storage]\nstate_dir = %q\ndata_dir = %q\n",
		out+"/guest/vmlinux", out+"/guest/initrd.img", "/run/"+filepath.Base(dir), filepath.Join(dir, "lib"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	path := strings.Join([]string{filepath.Join(out, "bin"), filepath.Join(cache, "peers/2.4.2"), os.Getenv("PATH")}, ":")
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") })
	return append(env, "PATH="+path, "UNI_CONFIG="+config), nil
}
