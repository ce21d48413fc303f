package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBenchmarkTimes(t *testing.T) {
	out := "goos: linux\nBenchmarkX-2   \t 5\t 1500 ns/op\t 3.0 cpu-ms/op\nBenchmarkY-2  5  7 ns/op\nBenchmarkX-2  5  2e+06 ns/op\nPASS\n"
	got, err := benchmarkTimes(out, "BenchmarkX")
	if want := []time.Duration{1500, 2 * time.Millisecond}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for _, out := range []string{"", "BenchmarkX-2 5 much ns/op"} {
		if _, err := benchmarkTimes(out, "BenchmarkX"); err == nil {
			t.Errorf("%q has times", out)
		}
	}
}

// What is right for a microvm's kernel would hide the devices of the others.
func TestOn(t *testing.T) {
	m := bareMachine{"socket", []string{"-machine", "microvm,accel=tcg", "-bios", "qboot", "-append", "quiet pci=off x",
		"-global", "virtio-mmio.force-legacy=false", "-device", "virtio-blk-device,drive=root"}}
	want := "-machine q35,hpet=off -bios qboot -append quiet  x -device virtio-blk-pci,drive=root"
	if got := strings.Join(m.on("q35").args, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := m.on("microvm"); !slices.Equal(got.args, m.args) {
		t.Errorf("microvm: got %v", got)
	}
}
