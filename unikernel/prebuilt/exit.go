package prebuilt

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"
)

// Values of Config.Exit besides a mapping.
const (
	ExitAuto   = "auto"   // what is known of the kernel's kind
	ExitRaw    = "raw"    // the status is what the guest writes
	ExitIgnore = "ignore" // there is no device to write to
)

// statuses are exit statuses in place of those that a guest writes to isa-debug-exit.
type statuses map[uint32]uint32

// parseStatuses reads pairs such as "41=0,42=1". The device takes 0 to 127 (it makes an
// exit status of QEMU's of it, twice as large and odd), a process has 0 to 255.
func parseStatuses(s string) (statuses, error) {
	m := statuses{}
	for pair := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(pair), "=")
		a, err1 := strconv.ParseUint(from, 10, 7)
		b, err2 := strconv.ParseUint(to, 10, 8)
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%w: exit %q: want %q, %q, %q, or pairs as %q: of a status that the guest writes, 0 to 127, and the container's, 0 to 255",
				unikernel.ErrInvalid, s, ExitAuto, ExitRaw, ExitIgnore, "41=0,42=1")
		}
		m[uint32(a)] = uint32(b)
	}
	return m, nil
}

// exits returns what becomes of statuses, with the device or without it.
func (g *Guest) exits() (m statuses, device bool, err error) {
	switch how := cmp.Or(g.cfg.Exit, ExitAuto); {
	case how == ExitIgnore:
		return nil, false, nil
	case how == ExitRaw, how == ExitAuto && g.kernel.kind.exit == "":
		return nil, true, nil
	case how == ExitAuto:
		m, err = parseStatuses(g.kernel.kind.exit)
	default:
		m, err = parseStatuses(how)
	}
	return m, true, err
}

// exit returns the container's status, see the package's comment. For an end
// that is no guest's doing the watcher of the machine has the status.
func (g *Guest) exit(end unikernel.End, _ unikernel.Watched) (uint32, error) {
	switch end.Reason {
	case unikernel.EndShutdown:
		return 0, nil
	case unikernel.EndExited:
		m, _, _ := g.exits() // parsed before
		if to, ok := m[end.Status]; ok {
			return to, nil
		}
		return end.Status, nil
	}
	return 0, fmt.Errorf("%w: %s %s", unikernel.ErrUnavailable, end.Reason, end.Detail)
}
