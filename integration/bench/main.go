package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"containerd-shim-uni/integration/image"
	"containerd-shim-uni/integration/peer"

	"golang.org/x/sys/unix"
)

const (
	version = "2.4.2"
	uni     = "io.containerd.uni.v1"
	runc    = "io.containerd.runc.v2"
	hello   = "uni.local/hello:latest"
	python  = "uni.local/python:latest"
	busybox = "uni.local/busybox:latest"
	probe   = "uni.local/probe:latest"

	// nanosDir is the variable that names the directory with a Nanos kernel.
	nanosDir = "UNI_NANOS_DIR"
)

func main() {
	only := flag.String("only", "", "measure this alone: hello, stages, instructions, kvm, network, nanos or pods")
	pods := flag.Int("pods", 0, "with pods: so many at once, too")
	runs := flag.Int("runs", 10, "runs of each kind; the table shows medians")
	flag.Parse()
	if err := run(*runs, *only, *pods); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is a private containerd and where the runtime keeps its files.
type bench struct {
	*peer.Peer
	out, state, data string
	cache            string // the runtime's cache directory
	config, settings string // the runtime's configuration file, and what is in it
}

// templates says whether machines go on from templates, see machine.template.
func (b *bench) templates(mode string) error {
	return os.WriteFile(b.config, fmt.Appendf(nil, "%s[machine]\ntemplate = %q\n", b.settings, mode), 0o644)
}

// awaitTemplate returns when there is a template, which the first machine's shim has
// made.
func (b *bench) awaitTemplate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		found, err := filepath.Glob(filepath.Join(b.data, "templates/*/meta.json"))
		if err != nil || len(found) > 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("no template was made: see uni template ls")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func run(runs int, only string, pods int) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	ctx := context.Background()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil { // see cpu
		return err
	}
	dir, err := os.MkdirTemp("", "uni-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: logs are kept below", dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	b, err := start(ctx, dir, only)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Stop(), os.RemoveAll(b.state)) }()
	return b.measure(ctx, runs, only, pods)
}

func (b *bench) measure(ctx context.Context, runs int, only string, pods int) error {
	t := table{w: os.Stdout}
	t.host(ctx)
	if err := b.warm(ctx); err != nil {
		return err
	}
	switch only {
	case "":
	case "hello":
		return b.against(ctx, runs, &t)
	case "stages":
		return b.stages(ctx, runs, &t)
	case "kvm":
		return b.inside(ctx, &t)
	case "instructions":
		bare, err := b.machine(ctx, &t)
		if err != nil {
			return err
		}
		return b.instructions(ctx, bare, &t)
	case "network":
		return b.network(ctx, &t)
	case "nanos":
		return b.nanos(ctx, runs, &t)
	case "pods":
		return b.pods(ctx, runs, pods, &t)
	default:
		return fmt.Errorf("there is nothing named %q to measure", only)
	}
	bare, err := b.machine(ctx, &t)
	if err != nil {
		return err
	}
	if err := b.compare(ctx, runs, bare, &t); err != nil {
		return err
	}
	if err := b.stages(ctx, runs, &t); err != nil {
		return err
	}
	if err := b.instructions(ctx, bare, &t); err != nil {
		return err
	}
	if err := b.nanos(ctx, runs, &t); err != nil {
		return err
	}
	if err := b.disk(ctx, &t); err != nil {
		return err
	}
	if err := b.library(ctx, &t); err != nil {
		return err
	}
	if err := b.network(ctx, &t); err != nil {
		return err
	}
	if err := b.pods(ctx, runs, pods, &t); err != nil {
		return err
	}
	return b.inside(ctx, &t)
}

// start prepares images, configuration and containerd below dir.
func start(ctx context.Context, dir, only string) (*bench, error) {
	out, err := filepath.Abs("out")
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	cache = filepath.Join(cache, "containerd-shim-uni")
	// QEMU may run as a user of its own and must reach its disks.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	b := &bench{out: out, cache: cache, state: filepath.Join("/run", filepath.Base(dir)), data: filepath.Join(dir, "lib")}
	b.config = filepath.Join(dir, "uni.toml")
	text := fmt.Sprintf("[linux]\nkernel = %q\ninitrd = %q\n[storage]\nstate_dir = %q\ndata_dir = %q\n",
		out+"/guest/vmlinux", out+"/guest/initrd.img", b.state, b.data)
	text += "[annotations]\nallowed = [\"guest\", \"machine\", \"memory\", \"vcpus\"]\n"
	if kernel := os.Getenv(nanosDir); kernel != "" {
		text += fmt.Sprintf("[nanos]\nkernel = %q\n", kernel)
	}
	if accel := os.Getenv("UNI_TEST_ACCEL"); accel != "" {
		text += fmt.Sprintf("[libvirt]\naccel = %q\n", accel)
	}
	b.settings = text
	if err := b.templates("copy"); err != nil {
		return nil, err
	}
	b.Peer, err = peer.Start(ctx, peer.Options{
		Version: version, Programs: filepath.Join(cache, "peers"), Dir: dir,
		Namespace: "bench" + strings.TrimPrefix(filepath.Base(dir), "uni-"),
		Marks:     []string{b.state},
		Path:      []string{filepath.Join(out, "bin")},
		Env:       []string{"UNI_CONFIG=" + b.config},
	})
	if err != nil {
		return nil, err
	}
	if err := b.images(ctx, dir, only); err != nil {
		return nil, errors.Join(err, b.Stop())
	}
	return b, nil
}

// images imports what is measured: the hello alone if only that is.
func (b *bench) images(ctx context.Context, dir, only string) error {
	program, err := image.BuildHello(dir, "amd64")
	if err != nil {
		return err
	}
	if only == "hello" || only == "stages" || only == "pods" {
		return b.load(ctx, dir, image.Single(hello, program))
	}
	cache := b.cache
	if err := os.MkdirAll(filepath.Join(cache, "images"), 0o755); err != nil {
		return err
	}
	py, err := image.Python(python, filepath.Join(cache, "images/python"))
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
	prober, err := image.Build(dir, "probe", "amd64")
	if err != nil {
		return err
	}
	return b.load(ctx, dir, image.Single(hello, program), image.Single(probe, prober), py, box)
}

// load imports images.
func (b *bench) load(ctx context.Context, dir string, images ...image.Image) error {
	for _, i := range images {
		archive := filepath.Join(dir, "image.tar")
		if err := i.WriteFile(archive); err != nil {
			return err
		}
		if r := b.Ctr(ctx, nil, "images", "import", archive); r.Code != 0 {
			return fmt.Errorf("import %s: %s", i.Name, r.Stderr)
		}
	}
	return nil
}

// hello runs the static hello once and returns how long the whole call took.
func (b *bench) hello(ctx context.Context, runtime string) (time.Duration, error) {
	begin := time.Now()
	r := b.Ctr(ctx, nil, "run", "--rm", "--runtime", runtime, hello, "hello")
	took := time.Since(begin)
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "hello") {
		return 0, fmt.Errorf("hello with %s: %+v", runtime, r)
	}
	return took, nil
}

// warm runs each kind once: disks are built and capabilities probed then.
func (b *bench) warm(ctx context.Context) error {
	for _, r := range []string{uni, runc} {
		if _, err := b.hello(ctx, r); err != nil {
			return err
		}
	}
	return b.awaitTemplate(ctx)
}

// compare measures both runtimes and the bare machine in turn.
func (b *bench) compare(ctx context.Context, runs int, bare bareMachine, t *table) error {
	var boots, share []time.Duration
	ours, err := b.inTurn(ctx, runs, t, func(cold time.Duration) error {
		q, err := bare.boot(ctx)
		if err != nil {
			return fmt.Errorf("bare boot: %w", err)
		}
		boots, share = append(boots, q), append(share, cold-q)
		return nil
	})
	if err != nil {
		return err
	}
	ours.show(t)
	t.ms("bare QEMU, same disk, to the guest's first word", boots)
	t.ms("ours: "+uni+" minus bare QEMU", share)
	return nil
}

// helloTimes are what "ctr run --rm" took.
type helloTimes struct{ cold, forked, runc helloTime }

type helloTime struct{ took, cpu []time.Duration }

// inTurn measures machines that boot, machines that go on from a template, and runc;
// also, unless it is nil, is called after each round.
func (b *bench) inTurn(ctx context.Context, runs int, t *table, also func(cold time.Duration) error) (h helloTimes, err error) {
	for range runs {
		for _, kind := range []struct {
			runtime, template string
			times             *helloTime
		}{{uni, "off", &h.cold}, {uni, "copy", &h.forked}, {runc, "copy", &h.runc}} {
			if err := b.templates(kind.template); err != nil {
				return h, err
			}
			before, err := b.cpu(ctx)
			if err != nil {
				return h, err
			}
			took, err := b.hello(ctx, kind.runtime)
			if err != nil {
				return h, err
			}
			after, err := b.cpu(ctx)
			if err != nil {
				return h, err
			}
			kind.times.took, kind.times.cpu = append(kind.times.took, took), append(kind.times.cpu, after-before)
		}
		if also == nil {
			continue
		}
		if err := also(h.cold.took[len(h.cold.took)-1]); err != nil {
			return h, err
		}
	}
	t.head(fmt.Sprintf("a static hello, in turn (medians of %d, lowest)", runs))
	return h, nil
}

func (h helloTimes) show(t *table) {
	for _, row := range []struct {
		name string
		helloTime
	}{{uni + ", booting", h.cold}, {uni + ", from a template", h.forked}, {runc, h.runc}} {
		t.ms("ctr run --rm, "+row.name, row.took)
		t.ms("… CPU time of ctr, shim, machine", row.cpu)
	}
	t.line("ratios of the medians", "%7.1f, %.1f", float64(median(h.cold.took))/float64(median(h.runc.took)),
		float64(median(h.forked.took))/float64(median(h.runc.took)))
}

// cpu is the processors' time of all that has ended so far of what this process
// started, or was left: ctr, and shims with all that they waited for. It waits until
// no shim is there.
func (b *bench) cpu(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for len(b.Processes()) > 0 {
		select {
		case <-ctx.Done():
			return 0, errors.New("shims do not end")
		case <-time.After(20 * time.Millisecond):
		}
	}
	for { // what was started here is waited for by its own number, and has been
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 || err != nil {
			break
		}
	}
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &used); err != nil {
		return 0, err
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), nil
}

// against measures both runtimes in turn.
func (b *bench) against(ctx context.Context, runs int, t *table) error {
	h, err := b.inTurn(ctx, runs, t, nil)
	if err == nil {
		h.show(t)
	}
	return err
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

// table prints as it goes, so that a long run shows its progress.
type table struct{ w io.Writer }

func (t table) head(text string) { fmt.Fprintf(t.w, "\n%s\n", text) }

func (t table) line(name, format string, args ...any) {
	fmt.Fprintf(t.w, "  %-50s %s\n", name, fmt.Sprintf(format, args...))
}

func (t table) ms(name string, d []time.Duration) {
	t.line(name, "%7.0f ms  (%.0f)", millis(median(d)), millis(slices.Min(d)))
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// host says what was measured on.
func (t table) host(ctx context.Context) {
	out := func(name string, args ...string) string {
		text, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			return name + ": " + err.Error()
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return first
	}
	t.head("host")
	t.line("kernel, processors", "%s, %s", out("uname", "-sr"), out("nproc"))
	t.line("QEMU", "%s", out("qemu-system-x86_64", "--version"))
	t.line("containerd", "%s", version)
}
