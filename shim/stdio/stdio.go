package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/log"
)

// Config names the streams of one process as containerd does. An empty name is
// a stream that nobody reads or writes.
type Config struct {
	Stdin, Stdout, Stderr string
	// Terminal says that the process has one stream in both directions;
	// Stderr is unused.
	Terminal bool
}

// Streams are the open streams of one process.
type Streams struct {
	stdinName      string
	stdin          *input // nil until OpenStdin
	stdinEnded     bool   // CloseStdin came before OpenStdin
	stdinMu        sync.Mutex
	stdout, stderr *output
	logger         *logger

	once sync.Once
	err  error
}

// Open opens the output that cfg names for the process id of a container in
// namespace ns. The context bounds the wait for a logging program to become
// ready.
func Open(ctx context.Context, ns, id string, cfg Config) (_ *Streams, err error) {
	if cfg.Terminal {
		cfg.Stderr = ""
	}
	s := &Streams{stdinName: cfg.Stdin}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	uri, err := url.Parse(cfg.Stdout)
	if err != nil {
		return nil, fmt.Errorf("stdout: %w: %w", unikernel.ErrInvalid, uriError(err))
	}
	if uri.Scheme == "binary" || uri.Scheme == "binary-v2" {
		if s.logger, err = startLogger(ctx, uri, ns, id); err != nil {
			return nil, fmt.Errorf("start logging program %s: %w", uri.Path, err)
		}
		s.stdout = newOutput("stdout", s.logger.stdout)
		s.stderr = newOutput("stderr", s.logger.stderr)
		return s, nil
	}
	if s.stdout, err = openOutput("stdout", cfg.Stdout); err != nil {
		return nil, fmt.Errorf("open stdout %s: %w", readable(cfg.Stdout), err)
	}
	if s.stderr, err = openOutput("stderr", cfg.Stderr); err != nil {
		return nil, fmt.Errorf("open stderr %s: %w", readable(cfg.Stderr), err)
	}
	return s, nil
}

// OpenStdin opens the input. It belongs to the start of the process, not to its
// creation: a client's first write waits until it is done, and clients learn
// only from the reply to the creation how to say that their input has ended.
func (s *Streams) OpenStdin() error {
	s.stdinMu.Lock()
	defer s.stdinMu.Unlock()
	if s.stdinName == "" {
		return nil
	}
	in, err := openInput(s.stdinName)
	if err != nil {
		return fmt.Errorf("open stdin %s: %w", readable(s.stdinName), err)
	}
	s.stdin = in
	if s.stdinEnded {
		in.end()
	}
	return nil
}

// Stdio returns the streams as a guest's process takes them. Writers never
// return an error.
func (s *Streams) Stdio() unikernel.Stdio {
	var out unikernel.Stdio
	s.stdinMu.Lock()
	defer s.stdinMu.Unlock()
	if s.stdin != nil {
		out.Stdin = s.stdin
	}
	if s.stdout != nil {
		out.Stdout = s.stdout
	}
	if s.stderr != nil {
		out.Stderr = s.stderr
	}
	return out
}

// CloseStdin ends the input: what is in the fifo by now is still read, then
// the reader sees end-of-file, also when a client keeps its end open.
func (s *Streams) CloseStdin() {
	s.stdinMu.Lock()
	defer s.stdinMu.Unlock()
	s.stdinEnded = true
	if s.stdin != nil {
		s.stdin.end()
	}
}

// Close closes every stream, unblocks whoever reads or writes them, and waits
// a bounded time for a logging program to end. It may be called more than once.
func (s *Streams) Close() error {
	s.once.Do(func() {
		var errs []error
		s.stdinMu.Lock()
		if s.stdin != nil {
			errs = append(errs, s.stdin.file.Close())
		}
		s.stdinMu.Unlock()
		for _, o := range []*output{s.stdout, s.stderr} {
			if o != nil {
				errs = append(errs, o.file.Close())
			}
		}
		if s.logger != nil {
			errs = append(errs, s.logger.stop())
		}
		s.err = errors.Join(errs...)
	})
	return s.err
}

// output is a stream the guest writes.
type output struct {
	name string
	file *os.File
	lost sync.Once
}

func newOutput(name string, file *os.File) *output { return &output{name: name, file: file} }

// Write never fails: what cannot be written is discarded, and logged once.
func (o *output) Write(p []byte) (int, error) {
	if _, err := o.file.Write(p); err != nil && !errors.Is(err, os.ErrClosed) {
		o.lost.Do(func() {
			log.L.WithError(err).WithField("stream", o.name).Warn("output of the process is being discarded")
		})
	}
	return len(p), nil
}

// readable is a name as a person would write it: containerd 1.x takes an
// error's text for a format, in which "%2F" becomes "%!F(MISSING)".
func readable(name string) string {
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	return strings.ReplaceAll(name, "%", "?")
}

// uriError is an error of url.Parse, readable.
func uriError(err error) error { return errors.New(readable(err.Error())) }

// openOutput opens one output stream; an empty name is no stream at all.
func openOutput(stream, name string) (*output, error) {
	if name == "" {
		return nil, nil
	}
	uri, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, uriError(err))
	}
	var file *os.File
	switch uri.Scheme {
	case "", "fifo":
		file, err = openPath(uri.Path)
	case "file":
		if err := os.MkdirAll(filepath.Dir(uri.Path), 0o755); err != nil {
			return nil, err
		}
		file, err = os.OpenFile(uri.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	default:
		return nil, fmt.Errorf("scheme %q of a stream: %w: use a path, fifo://, file:// or binary://", uri.Scheme, unikernel.ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	return newOutput(stream, file), nil
}

// openPath opens a fifo with both ends, or an existing file to append to.
func openPath(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeNamedPipe != 0 {
		return openFifo(path)
	}
	return os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
}

// openFifo opens both ends of a fifo in one descriptor. On Linux this never
// waits for a peer (fifo(7)); as our own reader keeps the fifo alive, writing
// to one that has lost its client blocks when it is full instead of failing.
// The descriptor is polled, so Close ends a read or write that waits.
func openFifo(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
}

var _ io.Writer = (*output)(nil)
