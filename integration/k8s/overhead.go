package k8s

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// proportional is the line of smaps_rollup with a process's share of memory, in kB:
// pages that several processes have count in parts.
var proportional = regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB$`)

// Overhead runs an idle pod of one container and says on w what its processes on
// the host take, MiB each and the sum: what a RuntimeClass's overhead is to cover.
// QEMU's part has what the machine's kernel and the idle container touched.
func (c *Cluster) Overhead(ctx context.Context, w io.Writer, runtime string) error {
	return c.try(ctx, check{"overhead", func(t *try) error {
		before := map[int]bool{}
		for _, pid := range t.Node.Processes() {
			before[pid] = true
		}
		if err := t.pod("p", sleeper); err != nil {
			return err
		}
		if err := t.ready("p"); err != nil {
			return err
		}
		sum := 0.0
		for _, pid := range t.Node.Processes() {
			dir := filepath.Join("/proc", strconv.Itoa(pid))
			memory, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
			found := proportional.FindSubmatch(memory)
			if before[pid] || err != nil || found == nil {
				continue // the control plane's, or one that just ended
			}
			line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
			if err != nil {
				continue
			}
			name, _, _ := strings.Cut(string(line), "\x00")
			name, _, _ = strings.Cut(name, ":") // what virtiofsd adds
			kilobytes, err := strconv.Atoi(string(found[1]))
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%-28s %6.1f MiB\n", filepath.Base(name), float64(kilobytes)/1024)
			sum += float64(kilobytes) / 1024
		}
		fmt.Fprintf(w, "%-28s %6.1f MiB\n", "sum of "+runtime, sum)
		return nil
	}}, runtime)
}
