package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestFrames(t *testing.T) {
	var b []byte
	b = AppendFrame(b, KindData, 7, []byte{1}, []byte("hello"))
	b = AppendFrame(b, KindShutdown, 0)
	b = AppendFrame(b, KindReply, 1<<32-1, bytes.Repeat([]byte("x"), MaxGuestPayload))
	r := NewReader(iotest.OneByteReader(bytes.NewReader(b)), MaxGuestPayload)
	for _, want := range []Frame{
		{KindData, 7, []byte("\x01hello")}, {KindShutdown, 0, nil},
		{KindReply, 1<<32 - 1, bytes.Repeat([]byte("x"), MaxGuestPayload)},
	} {
		f, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind != want.Kind || f.ID != want.ID || !bytes.Equal(f.Payload, want.Payload) {
			t.Errorf("frame %d of %d, %d bytes", f.Kind, f.ID, len(f.Payload))
		}
	}
	if _, err := r.Read(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestBadFrames(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		want        error
	}{
		{"kind 0", "\x00\x00\x00\x00\x00\x00\x00\x00", ErrFrame},
		{"unknown kind", "\xff\x00\x00\x00\x00\x00\x00\x00", ErrFrame},
		{"too large", "\x07\x01\x00\x01\x00\x00\x00\x00", ErrTooLarge},
		{"cut head", "\x07\x01", io.ErrUnexpectedEOF},
		{"cut payload", "\x07\x05\x00\x00\x00\x00\x00\x00abc", io.ErrUnexpectedEOF},
		{"no payload", "\x07\x05\x00\x00\x00\x00\x00\x00", io.ErrUnexpectedEOF},
	} {
		if _, err := NewReader(strings.NewReader(c.bytes), MaxGuestPayload).Read(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestReaderAllocatesWhatArrives: a header alone must not make the reader
// allocate what it announces.
func TestReaderAllocatesWhatArrives(t *testing.T) {
	head := AppendFrame(nil, KindRun, 1)
	head[1], head[2], head[3] = 0, 0, 0x70 // 7 MiB
	r := NewReader(bytes.NewReader(head), MaxHostPayload)
	if _, err := r.Read(); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	if cap(r.buf) > 128<<10 {
		t.Errorf("the reader holds %d bytes", cap(r.buf))
	}
	large := AppendFrame(nil, KindRun, 1, make([]byte, 1<<20))
	small := AppendFrame(nil, KindShutdown, 0, []byte("x"))
	r = NewReader(bytes.NewReader(append(large, small...)), MaxHostPayload)
	for range 2 {
		if _, err := r.Read(); err != nil {
			t.Fatal(err)
		}
	}
	if cap(r.buf) > 128<<10 {
		t.Errorf("after a small frame the reader still holds %d bytes", cap(r.buf))
	}
}

// sampleSandbox has a value in every field.
func sampleSandbox() Sandbox {
	return Sandbox{
		Clock: Clock{-3}, Hostname: "h", Domainname: "d", ShareTag: "uni",
		Sysctls: [][2]string{{"net.core.somaxconn", "1"}, {"a", ""}},
		Network: Network{
			Interfaces: []Interface{{"eth0", "\x02abcde", 1500, []Prefix{{"\x0a\x00\x00\x02", 24}}, []Prefix{{"0123456789abcdef", 64}}}},
			Routes:     []Route{{"eth0", Prefix{"\x00\x00\x00\x00", 0}, "\x0a\x00\x00\x01", "", 100, 1400, true}},
			Neighbors:  []Neighbor{{"eth0", "\x0a\x00\x00\x09", "\x02zyxwv"}},
		},
	}
}

// sampleContainer has a value in every field.
func sampleContainer() Container {
	return Container{
		ID: 1<<32 - 1, Root: "c0-root", Upper: "c0-upper", Space: &Space{1 << 40, 1 << 20}, ReadonlyRoot: true,
		PIDs:        PIDNamespace{PIDContainer, 4},
		Mounts:      []Mount{{"/proc", "proc", "proc", []string{"nosuid", "ro"}}, {"/x", "bind", "0", nil}},
		Devices:     []Device{{"/dev/fuse", 'c', 10, 229, 0o600, 1, 2, "", false}, {"/dev/xvda", 'b', 0, 0, 0o660, 0, 6, "c0-2", true}},
		MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys", "/proc/bus"},
		Limits: sampleLimits().Limits,
	}
}

func sampleDial() Dial { return Dial{3, "0123456789abcdef", 1<<16 - 1} }

func sampleStart() Start { return Start{2, 9, sampleProcess()} }

func sampleProcess() Process {
	return Process{
		Args: []string{"sh", "-c", ""}, Env: []string{"A=1"}, Cwd: "/", UID: 1<<32 - 1, GID: 2, Groups: []uint32{5, 6}, Umask: 0o22,
		Caps: Caps{1, 2, 3, 4, 1<<64 - 1}, NoNewPrivileges: true, Filter: "\x06\x00\x00\x00\x00\x00\xff\x7f", FilterFlags: 2, Rlimits: []Rlimit{{7, 1024, 1<<64 - 1}},
		SetOOMScoreAdj: true, OOMScoreAdj: -999, Terminal: true, Width: 80, Height: 1<<16 - 1,
		Stdin: true, Stdout: true, Stderr: true,
	}
}

func sampleStats() Stats {
	return Stats{Files: [][2]string{{"memory.current", "4096\n"}, {"io.stat", ""}}, Network: "eth0: 1 2\n"}
}

func sampleLimits() SetLimits {
	memory := uint64(1 << 40)
	return SetLimits{3, Limits{Memory: &memory, CPU: &CPU{50_000, 100_000, 100}}}
}

func sampleVolume() Volume {
	return Volume{Name: "v", Kind: VolumeMemory, Options: []string{"size=1m"},
		Files: []VolumeFile{{Path: "dir", Mode: 0o42777, GID: 2}, {Path: "dir/file", Mode: 0o100600, UID: 1, GID: 2, Data: "x\x00"}}}
}

// TestVersion: a guest of another build must be told by its version. When what
// is sent changes, Version does, and the sum here.
func TestVersion(t *testing.T) {
	h := sha256.New()
	for _, b := range [][]byte{
		Hello{0, "k", true}.Encode(), Wake{[EntropySize]byte{31: 1}}.Encode(), Reply{CodeInvalid, "no", "data"}.Encode(), Exit{255}.Encode(), Signal{1, 15, true}.Encode(),
		Resize{1, 80, 24}.Encode(), sampleSandbox().Encode(), sampleContainer().Encode(), sampleStart().Encode(), OOM{5, 2}.Encode(),
		Clock{-5}.Encode(), []byte(Time{1 << 60}.Encode()), []byte(sampleStats().Encode()), sampleLimits().Encode(),
		SetSpace{4, Space{1 << 40, 1 << 20}}.Encode(), Target{7}.Encode(), sampleDial().Encode(), sampleVolume().Encode(),
		Freeze{3, true}.Encode(),
	} {
		h.Write(b)
	}
	const version, sum = 12, "c9b72c7aa476eec8d55b45f3332d46b004925f096c0217b991b3129a21462493"
	if got := hex.EncodeToString(h.Sum(nil)); Version != version || got != sum {
		t.Errorf("version %d with sum %s, want %d with %s: has what is sent changed, and the version not?", Version, got, version, sum)
	}
}

func TestMessages(t *testing.T) {
	check := func(want any, encoded []byte, decode func([]byte) (any, error)) {
		t.Helper()
		got, err := decode(encoded)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%T: got %+v, %v\nwant %+v", want, got, err, want)
		}
		// Whatever is missing, or too much, is seen.
		for n := range encoded {
			if _, err := decode(encoded[:n]); err == nil {
				t.Errorf("%T cut to %d of %d bytes is accepted", want, n, len(encoded))
			}
		}
		if _, err := decode(append(bytes.Clone(encoded), 0)); err == nil {
			t.Errorf("%T with a byte too much is accepted", want)
		}
	}
	check(Hello{Version, "6.12", true}, Hello{Version, "6.12", true}.Encode(), func(b []byte) (any, error) { return DecodeHello(b) })
	check(Wake{[EntropySize]byte{1, 31: 9}}, Wake{[EntropySize]byte{1, 31: 9}}.Encode(), func(b []byte) (any, error) { return DecodeWake(b) })
	check(Reply{CodeInvalid, "no", "data"}, Reply{CodeInvalid, "no", "data"}.Encode(), func(b []byte) (any, error) { return DecodeReply(b) })
	check(Exit{255}, Exit{255}.Encode(), func(b []byte) (any, error) { return DecodeExit(b) })
	check(OOM{5, 3}, OOM{5, 3}.Encode(), func(b []byte) (any, error) { return DecodeOOM(b) })
	check(Signal{1, 15, true}, Signal{1, 15, true}.Encode(), func(b []byte) (any, error) { return DecodeSignal(b) })
	space := SetSpace{4, Space{1 << 40, 1 << 20}}
	check(space, space.Encode(), func(b []byte) (any, error) { return DecodeSetSpace(b) })
	check(Target{7}, Target{7}.Encode(), func(b []byte) (any, error) { return DecodeTarget(b) })
	check(Freeze{3, true}, Freeze{3, true}.Encode(), func(b []byte) (any, error) { return DecodeFreeze(b) })
	check(sampleDial(), sampleDial().Encode(), func(b []byte) (any, error) { return DecodeDial(b) })
	check(sampleVolume(), sampleVolume().Encode(), func(b []byte) (any, error) { return DecodeVolume(b) })
	check(Resize{1, 80, 24}, Resize{1, 80, 24}.Encode(), func(b []byte) (any, error) { return DecodeResize(b) })
	check(sampleSandbox(), sampleSandbox().Encode(), func(b []byte) (any, error) { return DecodeSandbox(b) })
	check(sampleContainer(), sampleContainer().Encode(), func(b []byte) (any, error) { return DecodeContainer(b) })
	check(sampleStart(), sampleStart().Encode(), func(b []byte) (any, error) { return DecodeStart(b) })
	check(Clock{-5}, Clock{-5}.Encode(), func(b []byte) (any, error) { return DecodeClock(b) })
	check(Time{1 << 60}, []byte(Time{1 << 60}.Encode()), func(b []byte) (any, error) { return DecodeTime(string(b)) })
	check(sampleStats(), []byte(sampleStats().Encode()), func(b []byte) (any, error) { return DecodeStats(string(b)) })
	check(sampleLimits(), sampleLimits().Encode(), func(b []byte) (any, error) { return DecodeSetLimits(b) })
}

func TestOutOfRange(t *testing.T) {
	if _, err := DecodeExit(Exit{256}.Encode()); err == nil {
		t.Error("exit status 256 is accepted")
	}
	if _, err := DecodeOOM(OOM{}.Encode()); err == nil {
		t.Error("a want of memory that killed nothing is accepted")
	}
	if _, err := DecodeContainer(Container{}.Encode()); err == nil {
		t.Error("a container without an id is accepted")
	}
	if _, err := DecodeContainer(Container{ID: 1, PIDs: PIDNamespace{Kind: PIDContainer + 1}}.Encode()); err == nil {
		t.Error("an unknown kind of PID namespace is accepted")
	}
	for _, d := range []Dial{{Address: "\x7f\x00\x00", Port: 80}, {Port: 80}} {
		if _, err := DecodeDial(d.Encode()); err == nil {
			t.Errorf("an address of %d bytes is accepted", len(d.Address))
		}
	}
	if _, err := DecodeDial([]byte{1, 4, 127, 0, 0, 1, 0x80, 0x80, 4}); err == nil { // a varint
		t.Error("port 65536 is accepted")
	}
	if _, err := DecodeVolume(Volume{Kind: VolumeGone + 1}.Encode()); err == nil {
		t.Error("an unknown kind of volume is accepted")
	}
	for _, short := range []string{"", "0123456789"} {
		var e Encoder
		e.String(short)
		if _, err := DecodeWake(e.Bytes()); err == nil {
			t.Errorf("entropy of %d bytes is accepted", len(short))
		}
	}
	if _, _, err := DecodeCredit(EncodeCredit(Stdout, OutWindow+ExitBurst+1)); err == nil {
		t.Error("a credit beyond all windows is accepted")
	}
	if _, _, err := DecodeCredit(EncodeCredit(Stdin, 0)); err == nil {
		t.Error("a credit of nothing is accepted")
	}
	if s, n, err := DecodeCredit(EncodeCredit(Stdin, 70000)); s != Stdin || n != 70000 || err != nil {
		t.Errorf("credit: %d, %d, %v", s, n, err)
	}
	if _, _, err := DecodeStream([]byte{3}); err == nil {
		t.Error("stream 3 is accepted")
	}
	// A count that no payload can hold must not make the decoder allocate.
	d := NewDecoder([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	if l := d.Strings(); l != nil || d.Err() == nil {
		t.Errorf("a list of 2^32 strings is accepted")
	}
}
