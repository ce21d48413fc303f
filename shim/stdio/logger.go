package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

const (
	// readyTimeout bounds the wait for a logging program to say it is ready.
	readyTimeout = 10 * time.Second
	// Time a logging program gets to end after its input ended, and again
	// after SIGTERM, before SIGKILL.
	loggerFlushTimeout = 5 * time.Second
	loggerTermTimeout  = 5 * time.Second
)

// logger is a running logging program.
type logger struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File // our ends, written by the guest's process
	done           chan struct{}
}

// startLogger starts the program of a binary:// address and waits until it is
// ready. The query's keys and values are its arguments, in the order of keys;
// containerd leaves the order open.
func startLogger(ctx context.Context, uri *url.URL, ns, id string) (_ *logger, err error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	pipe := func() (r, w *os.File) {
		if err != nil {
			return nil, nil
		}
		if r, w, err = os.Pipe(); err == nil {
			files = append(files, r, w)
		}
		return r, w
	}
	outR, outW := pipe()
	errR, errW := pipe()
	readyR, readyW := pipe()
	if err != nil {
		return nil, err
	}

	l := &logger{done: make(chan struct{})}
	l.cmd = exec.Command(uri.Path, loggerArgs(uri)...)
	l.cmd.Env = []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + ns}
	l.cmd.ExtraFiles = []*os.File{outR, errR, readyW} // descriptors 3, 4, 5
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(l.done)
		_ = l.cmd.Wait()
	}()
	_ = readyW.Close() // so that the program's death reads as end-of-file
	if err := awaitReady(ctx, readyR, uri.Scheme == "binary-v2"); err != nil {
		_ = l.cmd.Process.Kill()
		<-l.done
		return nil, err
	}
	l.stdout, l.stderr = outW, errW
	files = slices.DeleteFunc(files, func(f *os.File) bool { return f == outW || f == errW })
	return l, nil
}

// awaitReady reads the byte by which a logging program says it is ready.
// binary:// takes a closed descriptor for it too, binary-v2:// does not.
func awaitReady(ctx context.Context, r *os.File, strict bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := r.Read(make([]byte, 1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it did not become ready: %w", context.Cause(ctx))
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case strict && n == 0:
		return errors.New("it ended, or closed descriptor 5, before it was ready")
	}
	return nil
}

func loggerArgs(uri *url.URL) []string {
	query := uri.Query()
	keys := make([]string, 0, len(query))
	for k := range query {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var args []string
	for _, k := range keys {
		args = append(args, k, query.Get(k))
	}
	return args
}

// stop waits for the program to end now that its input has ended, and makes it
// end when it does not.
func (l *logger) stop() error {
	if l.wait(loggerFlushTimeout) {
		return nil
	}
	_ = l.cmd.Process.Signal(syscall.SIGTERM)
	if l.wait(loggerTermTimeout) {
		return nil
	}
	_ = l.cmd.Process.Kill()
	<-l.done
	return fmt.Errorf("logging program %s had to be killed: it did not end with its input", l.cmd.Path)
}

func (l *logger) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.done:
		return true
	case <-timer.C:
		return false
	}
}
