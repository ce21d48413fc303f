package order

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"
)

// TestRead: what one process writes is what the other reads, and nothing else is an
// order.
func TestRead(t *testing.T) {
	want := Order{Config: config.Default(), Force: true, Machine: &unikernel.Machine{
		Name: "m", Type: "microvm", Resources: unikernel.Resources{MemoryMiB: 256, VCPUs: 2}, Board: unikernel.Board{ReportsFree: true},
		Kernel: "/k", Cmdline: []string{"a", "b=c"}, Disks: []unikernel.Disk{{Path: "/d", Format: "raw", Serial: "s", ReadOnly: true}},
		NICs: []unikernel.NIC{{Tap: "t", MAC: "m", Queues: 2}}, Channels: []unikernel.Channel{{Name: "n", Socket: "/s"}},
	}}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Read(bytes.NewReader(data)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "{", "{}", strings.Repeat(" ", maxOrder) + string(data)} {
		if _, err := Read(strings.NewReader(text)); err == nil {
			t.Errorf("%.20q is an order", text)
		}
	}
}
