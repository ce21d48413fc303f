// Kvm runs the tests that matter under KVM in a machine that has it, see
// package integration/kvm, and closes with "N passed, N failed, N skipped".
//
//	kvm [-run PATTERN] [-list] [-keep]
//
// It wants root and what "make build guest peers" prepares. With UNI_NANOS_DIR
// the guest nanos is tested too; else its tests are listed as skipped. What the
// tests said is in out/kvm, L1's console too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"containerd-shim-uni/integration/kvm"
)

func main() {
	pattern := flag.String("run", "", "only rows whose name matches")
	list := flag.Bool("list", false, "list the rows and do nothing")
	keep := flag.Bool("keep", false, "keep L1's share and console also after success")
	flag.Parse()
	runtime.LockOSThread() // L1 dies with the thread that started it
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	chosen, err := choose(*pattern)
	if err == nil && *list {
		for _, r := range chosen {
			fmt.Printf("%-20s %-20s %s\n", r.name, r.pkg, r.run)
		}
		return
	}
	ok := false
	if err == nil {
		ok, err = run(ctx, chosen, *keep)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvm:", err)
	}
	if !ok || err != nil {
		stop()
		os.Exit(1)
	}
}

func choose(pattern string) ([]row, error) {
	p, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var chosen []row
	for _, r := range rows {
		if p.MatchString(r.name) {
			chosen = append(chosen, r)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no row matches %q", pattern)
	}
	return chosen, nil
}

// bench is one run: L1, what it boots, and where results go.
type bench struct {
	payload kvm.Payload
	out     string // out/kvm
	testsum string // the built program
	l1      *kvm.Machine
}

func run(ctx context.Context, chosen []row, keep bool) (ok bool, err error) {
	if os.Geteuid() != 0 {
		return false, errors.New("root is needed")
	}
	checkout, err := os.Getwd()
	if err != nil {
		return false, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return false, err
	}
	b := bench{out: filepath.Join(checkout, "out/kvm"), payload: kvm.Payload{
		Checkout: checkout, Cache: filepath.Join(cache, "containerd-shim-uni"),
		Tests: each(chosen, packages), Peers: peers, Tools: each(chosen, tools), Nanos: os.Getenv("UNI_NANOS_DIR"),
	}}
	if err := errors.Join(os.RemoveAll(b.out), os.MkdirAll(b.out, 0o755)); err != nil {
		return false, err
	}
	b.testsum = filepath.Join(b.out, "testsum")
	if out, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", b.testsum, "./integration/cmd/testsum").CombinedOutput(); err != nil {
		return false, fmt.Errorf("build testsum: %w: %s", err, out)
	}
	dir, err := os.MkdirTemp("", "uni-kvm-")
	if err != nil {
		return false, err
	}
	defer func() {
		if keep {
			fmt.Println("kept:", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	root, err := kvm.NewRoot(ctx, checkout, b.payload.Cache, filepath.Join(b.out, "root.log"))
	if err != nil {
		return false, err
	}
	begin := time.Now()
	disk, err := b.payload.New(ctx, dir)
	if err != nil {
		return false, err
	}
	step("programs and tests", begin)
	for _, rows := range split(chosen) {
		o := kvm.Options{Root: root, Payload: disk, MemoryMiB: 4096, CPUs: 2}
		o.Dir = filepath.Join(dir, "l1")
		if rows[0].invariantTSC {
			o.Dir, o.CPUs, o.InvariantTSC = filepath.Join(dir, "l1-invariant-tsc"), 1, true
		}
		if err := b.machine(ctx, o, rows); err != nil {
			return false, err
		}
	}
	return b.sum(ctx, chosen)
}

// machine boots an L1, makes it a host of the runtime and runs rows in it.
func (b *bench) machine(ctx context.Context, o kvm.Options, rows []row) (err error) {
	begin := time.Now()
	defer func() { err = errors.Join(err, b.saveConsole(o)) }()
	if b.l1, err = kvm.Start(ctx, o); err != nil {
		return err
	}
	defer b.l1.Stop()
	step("boot", begin)
	begin = time.Now()
	status, err := b.l1.Run(ctx, kvm.Setup, os.Stdout)
	if err == nil && status != 0 {
		err = fmt.Errorf("L1 is no host with KVM: status %d", status)
	}
	if err != nil {
		return err
	}
	step("set-up", begin)
	for _, r := range rows {
		if err := b.row(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func step(what string, begin time.Time) {
	fmt.Printf("== %s: %.0f s\n", what, time.Since(begin).Seconds())
}

// row runs a row's tests in L1; a failure of theirs is in the results.
func (b *bench) row(ctx context.Context, r row) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.bound()+time.Minute)
	defer cancel()
	results := exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", "containerd-shim-uni/"+strings.TrimPrefix(r.pkg, "./"))
	show := exec.CommandContext(ctx, b.testsum, "-o", b.results(r))
	read, write := io.Pipe()
	results.Stdin, results.Stderr, show.Stdout, show.Stderr = read, os.Stderr, os.Stdout, os.Stderr
	var err error
	if show.Stdin, err = results.StdoutPipe(); err != nil {
		return err
	}
	if err := errors.Join(results.Start(), show.Start()); err != nil {
		return err
	}
	_, err = b.l1.Run(ctx, r.script(b.payload.Env()), write)
	write.Close()
	_ = show.Wait() // failed tests are found in the sum
	err = errors.Join(err, results.Wait())
	step(r.name, begin)
	return err
}

func (b *bench) results(r row) string {
	return filepath.Join(b.out, strings.ReplaceAll(r.name, " ", "-")+".json")
}

// sum prints what every row gave. Only what needs a kernel of Nanos may be skipped here.
func (b *bench) sum(ctx context.Context, chosen []row) (ok bool, err error) {
	text, err := os.ReadFile(filepath.Join(b.payload.Checkout, "integration/skips.txt"))
	if err != nil {
		return false, err
	}
	var skips strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "UNI_NANOS_DIR") {
			skips.WriteString(line)
		}
	}
	list := filepath.Join(b.out, "skips.txt")
	if err := os.WriteFile(list, []byte(skips.String()), 0o644); err != nil {
		return false, err
	}
	args := []string{"-skips", list}
	for _, r := range chosen {
		args = append(args, b.results(r))
	}
	cmd := exec.CommandContext(ctx, b.testsum, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	fmt.Println("== sum")
	return cmd.Run() == nil, nil
}

// saveConsole keeps what L1's kernel said.
func (b *bench) saveConsole(o kvm.Options) error {
	text, err := os.ReadFile(o.Console())
	return errors.Join(err, os.WriteFile(filepath.Join(b.out, filepath.Base(o.Dir)+".console.log"), text, 0o644))
}
