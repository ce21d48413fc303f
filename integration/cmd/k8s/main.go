// K8s builds and starts a Kubernetes of one node, runs the checks of
// integration/k8s on runc and on this runtime, prints a table and stops it:
//
//	k8s [-run REGEXP] [-runtime runc,uni] [-overhead] [-keep]
//
// It needs root and what "make build guest peers" and integration/k8s.sh prepare.
// Everything runs in a network namespace of its own. It ends with status 1 where the
// runs and expected.txt of integration/conformance differ, in either direction.
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
	"regexp"
	"strings"
	"syscall"

	"containerd-shim-uni/integration/conformance"
	"containerd-shim-uni/integration/image"
	"containerd-shim-uni/integration/k8s"
	"containerd-shim-uni/integration/peer"
)

const (
	// expectedFile is below the checkout.
	expectedFile = "integration/conformance/expected.txt"
	pause        = "uni.local/pause:latest"
	containerd   = "2.4.2"
)

// options are the flags.
type options struct {
	only     *regexp.Regexp
	runtimes []string
	overhead bool
	keep     bool
}

func main() {
	only := flag.String("run", "", "checks, a regular expression")
	runtimes := flag.String("runtime", "runc,uni", "runtimes, separated by commas")
	var o options
	flag.BoolVar(&o.overhead, "overhead", false, "measure what an idle pod takes on the host, in place of checks")
	flag.BoolVar(&o.keep, "keep", false, "keep the directory with all logs")
	flag.Parse()
	o.runtimes = strings.Split(*runtimes, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil {
		if conformance.Inside() {
			err = run(ctx, o)
		} else {
			err = conformance.GoInside(ctx)
		}
	}
	if errors.Is(err, conformance.ErrSaid) {
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "k8s:", err)
		os.Exit(1)
	}
}

// run starts the cluster, runs the checks on each runtime and compares.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "uni-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // QEMU's user must reach its disks
		return err
	}
	defer func() {
		if o.keep {
			fmt.Println("logs are in", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	c, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if o.overhead {
		var errs []error
		for _, r := range o.runtimes {
			errs = append(errs, c.Overhead(ctx, os.Stdout, r))
		}
		return errors.Join(errs...)
	}
	results := map[string]conformance.Results{}
	for _, r := range o.runtimes {
		results[r] = c.Run(ctx, os.Stdout, r, o.only)
	}
	if results["runc"] == nil || results["uni"] == nil {
		return ctx.Err()
	}
	f, err := os.Open(expectedFile)
	if err != nil {
		return err
	}
	defer f.Close()
	expected, err := conformance.ParseExpected(f)
	if err != nil {
		return fmt.Errorf("%s: %w", expectedFile, err)
	}
	return errors.Join(ctx.Err(), conformance.Compare(results["runc"], results["uni"], expected["k8s"]).Findings("k8s", expectedFile))
}

// start starts a cluster below a directory.
func start(ctx context.Context, dir string) (*k8s.Cluster, error) {
	caches, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(caches, "containerd-shim-uni")
	plugin, err := conformance.Tool(cache, "tools-*", "bridge")
	if err != nil {
		return nil, err
	}
	programs, err := exec.CommandContext(ctx, "integration/k8s.sh", "--dir").Output()
	if err != nil {
		return nil, err
	}
	archives, err := images(dir)
	if err != nil {
		return nil, err
	}
	env, err := conformance.Environment(dir, cache, containerd)
	if err != nil {
		return nil, err
	}
	c, err := k8s.Start(ctx, k8s.Options{
		Programs: strings.TrimSpace(string(programs)), Plugins: filepath.Dir(plugin), Images: archives, Pause: pause, Deploy: "deploy",
		Peer: peer.Options{Version: containerd, Programs: filepath.Join(cache, "peers"), Dir: dir, Namespace: "k8s.io", Env: env, Marks: []string{conformance.StateDir(dir)}},
	})
	if err != nil {
		return nil, err
	}
	for _, r := range []string{"runc", "uni"} {
		class := fmt.Sprintf("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: %s}\nhandler: %s\n", r, r)
		if r == "uni" { // what users install
			text, err := os.ReadFile("deploy/kubernetes/runtimeclass.yaml")
			if err != nil {
				return nil, errors.Join(err, c.Stop())
			}
			class = string(text)
		}
		if _, err := c.Kubectl(ctx, class, "apply", "-f", "-"); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	return c, nil
}

// images writes the archives that the node has.
func images(dir string) ([]string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	box, err := image.Busybox(k8s.Busybox, path)
	if err != nil {
		return nil, err
	}
	sandbox, err := image.Pause(pause, path)
	if err != nil {
		return nil, err
	}
	program, err := image.Build(dir, "pod", "amd64")
	if err != nil {
		return nil, err
	}
	var archives []string
	for _, i := range []image.Image{box, sandbox, image.Single(k8s.Program, program)} {
		name, _, _ := strings.Cut(filepath.Base(i.Name), ":")
		archives = append(archives, filepath.Join(dir, name+".tar"))
		if err := i.WriteFile(archives[len(archives)-1]); err != nil {
			return nil, err
		}
	}
	return archives, nil
}
