package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// settings are keys of the runtime's configuration, as "table.key", and their
// values as TOML.
type settings map[string]string

// toml is the configuration file: keys without a table come first.
func (s settings) toml() string {
	tables := map[string][]string{}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		table, name, found := strings.Cut(key, ".")
		if !found {
			table, name = "", key
		}
		tables[table] = append(tables[table], name+" = "+s[key])
	}
	var b strings.Builder
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		if table != "" {
			fmt.Fprintf(&b, "[%s]\n", table)
		}
		fmt.Fprintln(&b, strings.Join(tables[table], "\n"))
	}
	return b.String()
}

// settings are what every test of a host runs with.
func (h *host) settings() settings {
	s := settings{
		"linux.kernel":        fmt.Sprintf("%q", filepath.Join(world.out, "guest/vmlinux")),
		"linux.initrd":        fmt.Sprintf("%q", filepath.Join(world.out, "guest/initrd.img")),
		"storage.state_dir":   fmt.Sprintf("%q", h.state),
		"storage.data_dir":    fmt.Sprintf("%q", h.data),
		"libvirt.caps_cache":  fmt.Sprintf("%q", filepath.Join(world.dir, "caps")),
		"annotations.allowed": `["guest", "memory", "vcpus", "machine", "boot-timeout", "writable-size", "kernel-args"]`,
	}
	if accel := os.Getenv("UNI_TEST_ACCEL"); accel != "" {
		s["libvirt.accel"] = fmt.Sprintf("%q", accel)
	}
	if os.Getenv("UNI_TEST_TEMPLATE") == "off" {
		s["machine.template"] = `"off"`
	}
	return s
}

// with changes settings for the rest of a test.
func (h *host) with(t *testing.T, changes settings) {
	t.Helper()
	changed := h.settings()
	maps.Copy(changed, changes)
	h.configure(t, changed.toml())
}

// configure replaces the configuration file for the rest of a test.
func (h *host) configure(t *testing.T, text string) {
	t.Helper()
	write := func(text string) error { return os.WriteFile(h.config, []byte(text), 0o644) }
	if err := write(text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := write(h.settings().toml()); err != nil {
			t.Error(err)
		}
	})
}
