package linux

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

var _ unikernel.Accountant = (*session)(nil)

// Stats implements unikernel.Accountant.
func (s *session) Stats(ctx context.Context) (unikernel.Stats, error) { return s.only.Stats(ctx) }

// Limit implements unikernel.Accountant.
func (s *session) Limit(ctx context.Context, l unikernel.Limits) error { return s.only.Limit(ctx, l) }

// Stats implements unikernel.Accountant.
func (m *member) Stats(ctx context.Context) (unikernel.Stats, error) {
	data, err := m.s.ask(ctx, wire.KindStats, wire.Target{Container: m.id}.Encode())
	if err != nil {
		return unikernel.Stats{}, fmt.Errorf("statistics: %w", err)
	}
	w, err := wire.DecodeStats(data)
	if err != nil {
		return unikernel.Stats{}, fmt.Errorf("statistics: %w: %w", unikernel.ErrUnavailable, err)
	}
	return statsOf(w), nil
}

// Limit implements unikernel.Accountant.
func (m *member) Limit(ctx context.Context, l unikernel.Limits) error {
	w := wire.Limits{Memory: l.Memory, Pids: l.Pids, CPU: cpu(l.CPU)}
	return m.s.call(ctx, wire.KindLimit, wire.SetLimits{Container: m.id, Limits: w}.Encode())
}

// Freeze implements unikernel.Freezer.
func (m *member) Freeze(ctx context.Context, frozen bool) error {
	return m.s.call(ctx, wire.KindFreeze, wire.Freeze{Container: m.id, Frozen: frozen}.Encode())
}

var _ unikernel.Freezer = (*member)(nil)

// statsOf reads the kernel's files (Documentation/admin-guide/cgroup-v2.rst,
// proc_net_dev of proc(5)). A line that is not as it should be counts nothing.
func statsOf(w wire.Stats) unikernel.Stats {
	files := map[string]string{}
	for _, f := range w.Files {
		files[f[0]] = f[1]
	}
	cpu := pairs(files["cpu.stat"])
	return unikernel.Stats{
		CPU: unikernel.CPUStats{Usage: cpu["usage_usec"], User: cpu["user_usec"], System: cpu["system_usec"]},
		Memory: unikernel.MemoryStats{
			Usage: number(files["memory.current"]), Peak: number(files["memory.peak"]), Limit: number(files["memory.max"]),
			Stat: pairs(files["memory.stat"]), Events: pairs(files["memory.events"]),
		},
		Pids: number(files["pids.current"]), PidsLimit: number(files["pids.max"]),
		Block:   blockStats(files["io.stat"]),
		Network: networkStats(w.Network),
	}
}

// number reads a file of one number; "max" and nonsense are 0.
func number(text string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return n
}

// pairs reads lines "name number".
func pairs(text string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, " "); ok {
			m[name] = number(value)
		}
	}
	return m
}

// blockStats reads lines "major:minor name=number …".
func blockStats(text string) []unikernel.BlockStats {
	var all []unikernel.BlockStats
	for line := range strings.Lines(text) {
		device, counts, ok := strings.Cut(line, " ")
		major, minor, numbered := strings.Cut(device, ":")
		if !ok || !numbered {
			continue
		}
		b := unikernel.BlockStats{Major: number(major), Minor: number(minor)}
		for _, count := range strings.Fields(counts) {
			name, value, _ := strings.Cut(count, "=")
			switch name {
			case "rbytes":
				b.ReadBytes = number(value)
			case "wbytes":
				b.WriteBytes = number(value)
			case "rios":
				b.Reads = number(value)
			case "wios":
				b.Writes = number(value)
			}
		}
		all = append(all, b)
	}
	return all
}

// networkStats reads /proc/net/dev: two lines of headings, then one for each
// interface with eight counts of what it received and eight of what it sent.
// The loopback interface is left out, as by whoever counts a container's.
func networkStats(text string) []unikernel.NetworkStats {
	var all []unikernel.NetworkStats
	for line := range strings.Lines(text) {
		name, counts, ok := strings.Cut(line, ":")
		f := strings.Fields(counts)
		name = strings.TrimSpace(name)
		if !ok || len(f) < 16 || name == "lo" {
			continue
		}
		all = append(all, unikernel.NetworkStats{Name: name,
			RxBytes: number(f[0]), RxPackets: number(f[1]), RxErrors: number(f[2]), RxDropped: number(f[3]),
			TxBytes: number(f[8]), TxPackets: number(f[9]), TxErrors: number(f[10]), TxDropped: number(f[11]),
		})
	}
	return all
}
