package frontend

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// idleTime is how long the shim has nothing to do before it gives memory back.
const idleTime = time.Second

// tune keeps a process that mostly waits small.
func tune() {
	debug.SetGCPercent(40)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2)
	}
}

// activity tells when calls come and go.
type activity chan struct{}

// intercept is called around every call.
func (a activity) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	a.note()
	defer a.note()
	return method(ctx, unmarshal)
}

func (a activity) note() {
	select {
	case a <- struct{}{}:
	default:
	}
}

// trim gives back, each time the shim has become idle, what creating and
// starting a container took and watching it does not need.
func (a activity) trim(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a:
		}
		for idle := false; !idle; {
			select {
			case <-ctx.Done():
				return
			case <-a:
			case <-time.After(idleTime):
				idle = true
			}
		}
		debug.FreeOSMemory()
		if err := dropCode(); err != nil {
			log.L.WithError(err).Debug("code could not be unmapped")
		}
	}
}

// dropCode takes the pages of programs and libraries out of our address space.
// They stay in the page cache, and those that are needed come back by a minor
// fault; most were needed once.
func dropCode() error {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	ranges, err := cleanMappings(bufio.NewScanner(f))
	if err != nil {
		return err
	}
	for _, r := range ranges {
		// Best effort: what is locked, for example, stays.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_DONTNEED)
	}
	return nil
}

type addressRange struct{ start, end uintptr }

// cleanMappings lists the mappings of files that cannot be written and of which
// no page was ever changed (relocations are such changes): dropping their pages
// loses nothing. The format is that of proc_pid_smaps(5).
func cleanMappings(lines *bufio.Scanner) ([]addressRange, error) {
	var (
		all       []addressRange
		current   addressRange
		candidate bool
	)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"):
			_, err := fmt.Sscanf(fields[0], "%x-%x", &current.start, &current.end)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			candidate = len(fields) >= 6 && strings.HasPrefix(fields[5], "/") &&
				strings.HasPrefix(fields[1], "r") && !strings.Contains(fields[1], "w") && strings.HasSuffix(fields[1], "p")
		case candidate && len(fields) == 3 && fields[0] == "Anonymous:":
			if fields[1] == "0" {
				all = append(all, current)
			}
			candidate = false
		}
	}
	return all, lines.Err()
}
