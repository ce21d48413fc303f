package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBounds(t *testing.T) {
	root := t.TempDir()
	for name, files := range map[string]map[string]string{
		"limited": {"memory.max": "1048576\n", "cpu.max": "150000 100000\n", "cpuset.cpus.effective": "0-3,7\n"},
		"free":    {"memory.max": "max\n", "cpu.max": "max 100000\n"},
		"odd":     {"memory.max": "9223372036854771712\n", "cpu.max": "-1"},
	} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(root, name, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	u := unified{root}
	if got := u.bounds("/limited"); got != (Bounds{1 << 20, 1.5, "0-3,7"}) {
		t.Errorf("%+v", got)
	}
	for _, name := range []string{"/free", "/odd", "/absent"} {
		if got := u.bounds(name); got != (Bounds{}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := cpus(parseLimit("-1"), parseLimit("100000")); got != 0 {
		t.Errorf("no quota of version 1: %v", got)
	}
}
