package kvm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestProbeWithoutDevice(t *testing.T) {
	err := Probe(filepath.Join(t.TempDir(), "kvm"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want not-exist", err)
	}
}

func TestProbeOfSomethingElse(t *testing.T) {
	for _, path := range []string{"/dev/null", filepath.Join(t.TempDir(), "file")} {
		if path != "/dev/null" {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := Probe(path); !errors.Is(err, ErrUnusable) {
			t.Errorf("%s: got %v, want ErrUnusable", path, err)
		}
	}
}

// The kernel finds the structures by the size that is part of the request.
func TestSizesMatchRequests(t *testing.T) {
	for name, tt := range map[string]struct {
		request uintptr
		size    uintptr
	}{
		"regs":          {setRegs, unsafe.Sizeof(regs{})},
		"sregs":         {setSregs, unsafe.Sizeof(sregs{})},
		"memory region": {setUserMemoryRegion, unsafe.Sizeof(memoryRegion{})},
		"cpuid header":  {setCPUID2, unsafe.Offsetof(cpuid{}.Entries)},
	} {
		if want := tt.request >> 16 & 0x3fff; tt.size != want {
			t.Errorf("%s has %d bytes, the kernel's has %d", name, tt.size, want)
		}
	}
}

// What the jumps between and inside the two pieces of code rely on.
func TestLoad(t *testing.T) {
	memory := make([]byte, memorySize)
	load(memory)
	if len(code32) > code64At-code32At {
		t.Errorf("the 32-bit code of %d bytes runs into the 64-bit code", len(code32))
	}
	if fail := memory[code64At+0x40 : code64At+0x43]; string(fail) != "\x31\xc0\xf4" {
		t.Errorf("the failing end is not where the jumps go: % x", fail)
	}
}

// What a thread waits for on a busy host does not count, what it computes does.
func TestWatch(t *testing.T) {
	spin := func(late func() error) {
		for late() == nil {
		}
	}
	sleep := func(func() error) { time.Sleep(100 * time.Millisecond) }
	wait := func(late func() error) {
		for late() == nil {
			time.Sleep(time.Millisecond)
		}
	}
	for _, tt := range []struct {
		name             string
		budget, patience time.Duration
		do               func(late func() error)
		want             string
	}{
		{"computes", 50 * time.Millisecond, time.Hour, spin, "processor time"},
		{"sleeps longer than its budget", 50 * time.Millisecond, time.Hour, sleep, ""},
		{"hangs", time.Hour, 50 * time.Millisecond, wait, "have passed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			late, done := watch(unix.Gettid(), tt.budget, tt.patience)
			tt.do(late)
			done()
			err := late()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
