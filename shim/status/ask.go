package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNoShim says that nobody serves the socket of a sandbox: its shim was killed.
// containerd has what is left cleaned up when the container is deleted.
var ErrNoShim = errors.New("its shim is gone")

// Sandbox is what was found of one.
type Sandbox struct {
	// Dir is its directory.
	Dir     string
	Machine Machine
	// Err is why there is no Machine: ErrNoShim, or a shim that does not answer.
	Err error
}

// List asks all sandboxes whose directories are in dir (storage.state_dir), at the
// same time, and returns them by namespace and id. It is an error if dir cannot be
// read; one that is not there has none. A sandbox that is being made is not listed.
func List(ctx context.Context, dir string) ([]Sandbox, error) {
	sockets, err := filepath.Glob(filepath.Join(dir, "*", Socket))
	if err == nil && sockets == nil {
		if _, err = os.ReadDir(dir); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	found := make([]Sandbox, len(sockets))
	var all sync.WaitGroup
	for i, socket := range sockets {
		all.Go(func() {
			a, err := ask(ctx, socket, Request{})
			found[i] = Sandbox{Dir: filepath.Dir(socket), Err: err}
			if err == nil && a.Machine != nil {
				found[i].Machine = *a.Machine
			}
		})
	}
	all.Wait()
	found = slices.DeleteFunc(found, func(s Sandbox) bool { return errors.Is(s.Err, fs.ErrNotExist) }) // just deleted
	slices.SortFunc(found, func(a, b Sandbox) int {
		return strings.Compare(a.Machine.Namespace+"/"+a.Machine.ID+"/"+a.Dir, b.Machine.Namespace+"/"+b.Machine.ID+"/"+b.Dir)
	})
	return found, nil
}

// Console returns the last lines of the console of the sandbox in a directory.
func Console(ctx context.Context, dir string, lines int) ([]string, error) {
	a, err := ask(ctx, filepath.Join(dir, Socket), Request{Console: lines})
	return a.Console, err
}

func ask(ctx context.Context, socket string, r Request) (a Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := os.Lstat(socket); err != nil {
		return a, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: %w", ErrNoShim, err)
		}
		return a, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	err = json.NewEncoder(conn).Encode(r)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxAnswer)).Decode(&a)
	}
	switch {
	case err == nil:
		return a, nil
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE): // it died just now
		return Answer{}, fmt.Errorf("%w: %w", ErrNoShim, err)
	default:
		return Answer{}, fmt.Errorf("its shim does not answer: %w", err)
	}
}
