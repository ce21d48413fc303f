package linux

import (
	"reflect"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

func TestStats(t *testing.T) {
	s, g := attach(t)
	go func() {
		f := g.next(wire.KindStats)
		g.reply(f.ID, wire.Reply{Data: wire.Stats{
			Files: [][2]string{
				{"cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 0\n"},
				{"io.stat", "254:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:0\nnonsense\n7:1 rbytes=x\n"},
				{"memory.current", "5000\n"}, {"memory.peak", "6000\n"}, {"memory.max", "max\n"},
				{"memory.stat", "anon 1000\nfile 2000\ninactive_file 700\n"}, {"memory.events", "oom_kill 3\n"},
				{"pids.current", "4\n"}, {"pids.max", "100\n"},
			},
			Network: "Inter-|   Receive                                                |  Transmit\n" +
				" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n" +
				"    lo:      11       1    0    0    0     0          0         0       11       1    0    0    0     0       0          0\n" +
				"  eth0:    1500      15    1    2    0     0          0         0     2500      25    3    4    0     0       0          0\n" +
				"  eth1: 1\n",
		}.Encode()})
	}()
	got, err := s.(unikernel.Accountant).Stats(testContext(t))
	want := unikernel.Stats{
		CPU: unikernel.CPUStats{Usage: 30, User: 20, System: 10},
		Memory: unikernel.MemoryStats{Usage: 5000, Peak: 6000,
			Stat:   map[string]uint64{"anon": 1000, "file": 2000, "inactive_file": 700},
			Events: map[string]uint64{"oom_kill": 3}},
		Pids: 4, PidsLimit: 100,
		Block: []unikernel.BlockStats{{Major: 254, Minor: 16, ReadBytes: 4096, WriteBytes: 8192, Reads: 1, Writes: 2}, {Major: 7, Minor: 1}},
		Network: []unikernel.NetworkStats{{Name: "eth0", RxBytes: 1500, RxPackets: 15, RxErrors: 1, RxDropped: 2,
			TxBytes: 2500, TxPackets: 25, TxErrors: 3, TxDropped: 4}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	go func() { g.reply(g.next(wire.KindStats).ID, wire.Reply{Data: "\xff"}) }()
	if _, err := s.(unikernel.Accountant).Stats(testContext(t)); err == nil {
		t.Error("nonsense is an answer")
	}
}

func TestLimit(t *testing.T) {
	s, g := attach(t)
	none := uint64(0)
	go func() {
		f := g.next(wire.KindLimit)
		if l, err := wire.DecodeSetLimits(f.Payload); err != nil || l.Container != 1 || l.Memory != nil || l.Pids == nil || *l.Pids != 0 {
			t.Errorf("limits %+v, %v", l, err)
		}
		g.reply(f.ID, wire.Reply{Code: wire.CodeInternal, Text: "no pids controller"})
	}()
	if err := s.(unikernel.Accountant).Limit(testContext(t), unikernel.Limits{Pids: &none}); err == nil || !strings.Contains(err.Error(), "no pids controller") {
		t.Errorf("error %v", err)
	}
}
