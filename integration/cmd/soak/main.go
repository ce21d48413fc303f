// Soak lets many containers live and counts what goes wrong (package soak):
//
//	soak [-n LIVES] [-at-once N] [-seed N] [-runtime NAME] [-peer VERSION] [-only KIND,KIND]
//
// It needs root and what "make build guest peers" prepares, and ends with status 1
// if there was any fault. The same seed gives the same lives; -keep keeps the logs.
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
	"strings"
	"syscall"
	"time"

	"containerd-shim-uni/integration/image"
	"containerd-shim-uni/integration/leak"
	"containerd-shim-uni/integration/peer"
	"containerd-shim-uni/integration/soak"
)

const (
	uni     = "io.containerd.uni.v1"
	busybox = "uni.local/busybox:latest"
	hello   = "uni.local/hello:latest"
)

// errFaults is for a soak that found something.
var errFaults = errors.New("there were faults")

func main() {
	var o soak.Options
	flag.IntVar(&o.Lives, "n", 200, "how many containers live")
	flag.IntVar(&o.Workers, "at-once", 3, "how many of them at a time")
	flag.Uint64Var(&o.Seed, "seed", uint64(time.Now().Unix()), "what decides what each does")
	flag.StringVar(&o.Runtime, "runtime", uni, "the runtime; io.containerd.runc.v2 to compare with")
	version := flag.String("peer", "2.4.2", "version of containerd")
	only := flag.String("only", "", "kinds of lives, separated by commas; default all")
	keep := flag.Bool("keep", false, "keep the logs, also without faults")
	flag.Parse()
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, *version, *keep)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o soak.Options, version string, keep bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	dir, err := os.MkdirTemp("", "uni-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil || keep {
			fmt.Fprintln(os.Stderr, "soak: logs are kept below", dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	state := filepath.Join("/run", filepath.Base(dir))
	data := filepath.Join(dir, "lib")
	if o.Peer, err = start(ctx, dir, version, state, data); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Peer.Stop(), os.RemoveAll(state)) }()
	if err := images(ctx, o.Peer, dir); err != nil {
		return err
	}
	o.Busybox, o.Hello = busybox, hello
	// The first containers make disks and probe QEMU, which is not what is soaked.
	for _, name := range []string{busybox, hello} {
		if r := o.Peer.Ctr(ctx, nil, "run", "--rm", "--runtime", o.Runtime, name, "warm", "hello"); strings.Contains(r.Stderr, "unknown runtime") || r.Code < 0 {
			return fmt.Errorf("warm up: %+v", r)
		}
	}
	o.Checker = leak.NewChecker(leak.Scope{Namespace: o.Peer.Namespace, Dir: dir, StateDir: state, DataDir: data,
		Processes: o.Peer.Processes, Mounts: o.Peer.Mounts})
	begin := time.Now()
	o.Progress = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%5.0f s  "+format+"\n", append([]any{time.Since(begin).Seconds()}, args...)...)
	}
	report, err := soak.Run(ctx, o)
	report.Write(os.Stdout)
	if err == nil && len(report.Faults) > 0 {
		err = errFaults
	}
	return err
}

func start(ctx context.Context, dir, version, state, data string) (*peer.Peer, error) {
	out, err := filepath.Abs("out")
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	// QEMU may run as a user of its own and must reach its disks.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "uni.toml")
	text := fmt.Sprintf("[linux]\nkernel = %q\ninitrd = %q\n[storage]\nstate_dir = %q\ndata_dir = %q\n",
		out+"/guest/vmlinux", out+"/guest/initrd.img", state, data)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	return peer.Start(ctx, peer.Options{
		Version: version, Programs: filepath.Join(cache, "containerd-shim-uni/peers"), Dir: dir,
		Namespace: "soak" + strings.TrimPrefix(filepath.Base(dir), "uni-"),
		Marks:     []string{state},
		Path:      []string{filepath.Join(out, "bin")},
		Env:       []string{"UNI_CONFIG=" + config},
	})
}

func images(ctx context.Context, p *peer.Peer, dir string) error {
	program, err := image.BuildHello(dir, "amd64")
	if err != nil {
		return err
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	box, err := image.Busybox(busybox, path)
	if err != nil {
		return err
	}
	for _, i := range []image.Image{image.Single(hello, program), box} {
		archive := filepath.Join(dir, "image.tar")
		if err := i.WriteFile(archive); err != nil {
			return err
		}
		if r := p.Ctr(ctx, nil, "images", "import", archive); r.Code != 0 {
			return fmt.Errorf("import %s: %s", i.Name, r.Stderr)
		}
	}
	return nil
}
