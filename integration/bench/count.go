package main

import (
	"context"
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// counterSource is in a folder of its own: this package has no cgo.
//
//go:embed plugin/count.c
var counterSource []byte

// instructions counts what the guest executes from the machine's start until
// PID 1's first word, by emulation. The figures do not depend on the host's
// load, so they tell one version of kernel and PID 1 from another.
func (b *bench) instructions(ctx context.Context, bare bareMachine, t *table) error {
	plugin, err := b.counter(ctx)
	if err != nil {
		return err
	}
	t.head("instructions that the guest executes until PID 1's first word, bare QEMU, emulated (lowest of 3)")
	for _, machine := range []string{"microvm", "q35", "pc"} {
		var counts []uint64
		for range 3 {
			n, err := bare.on(machine).count(ctx, plugin)
			if err != nil {
				return fmt.Errorf("count instructions on %s: %w", machine, err)
			}
			counts = append(counts, n)
		}
		t.line(machine, "%7.1f million", float64(slices.Min(counts))/1e6)
	}
	return nil
}

// counter builds the plugin for the QEMU of this host.
func (b *bench) counter(ctx context.Context) (string, error) {
	text, err := exec.CommandContext(ctx, "qemu-system-x86_64", "--version").Output()
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`version (\d+)\.`).FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("QEMU's version: %q", text)
	}
	version := 1 // of the plugins' interface
	if major, _ := strconv.Atoi(string(m[1])); major >= 9 {
		version = 2
	}
	source, plugin := filepath.Join(b.Dir, "count.c"), filepath.Join(b.Dir, "count.so")
	if err := os.WriteFile(source, counterSource, 0o644); err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror",
		fmt.Sprintf("-DPLUGIN_VERSION=%d", version), "-o", plugin, source)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build QEMU's plugin: %w: %s", err, out)
	}
	return plugin, nil
}

// on is the same machine, which is a microvm, of another type: its devices are
// then on a PCI bus, which a microvm's kernel is told not to look for.
func (m bareMachine) on(machine string) bareMachine {
	if machine == "microvm" {
		return m
	}
	var args []string
	for i := 0; i < len(m.args); i++ {
		switch a := m.args[i]; {
		case a == "-global": // of virtio-mmio
			i++
		case a == "-machine":
			i++
			args = append(args, a, machine+",hpet=off")
		case a == "-append":
			i++
			args = append(args, a, strings.ReplaceAll(m.args[i], "pci=off", ""))
		default:
			args = append(args, regexp.MustCompile(`^(virtio-[a-z]+)-device`).ReplaceAllString(a, "$1-pci"))
		}
	}
	return bareMachine{m.socket, args}
}

// count boots under emulation and returns how many instructions the guest had
// executed when its first word was read.
func (m bareMachine) count(ctx context.Context, plugin string) (uint64, error) {
	file := strings.TrimSuffix(plugin, ".so") + ".bin"
	args := slices.Clone(m.args)
	args[slices.Index(args, "-accel")+1] = "tcg"
	counted := bareMachine{m.socket, append(args, "-plugin", plugin+",out="+file)}
	if _, err := counted.boot(ctx); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	if len(text) != 8 {
		return 0, fmt.Errorf("%d bytes were counted in, want 8", len(text))
	}
	return binary.LittleEndian.Uint64(text), nil
}
