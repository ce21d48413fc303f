package wire

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzReader: any bytes give frames within the limit or an error, and what was
// read encodes to the bytes it came from.
func FuzzReader(f *testing.F) {
	f.Add(AppendFrame(nil, KindHello, 0, Hello{Version, "6.12", true}.Encode()))
	f.Add(AppendFrame(AppendFrame(nil, KindData, 1, []byte{1, 'x'}), KindExit, 1, Exit{7}.Encode()))
	f.Add([]byte("\x07\xff\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b), MaxGuestPayload)
		var again []byte
		for {
			fr, err := r.Read()
			if err != nil {
				break
			}
			if len(fr.Payload) > MaxGuestPayload {
				t.Fatalf("payload of %d bytes", len(fr.Payload))
			}
			again = AppendFrame(again, fr.Kind, fr.ID, fr.Payload)
		}
		if !bytes.HasPrefix(b, again) {
			t.Error("frames do not encode to what they were read from")
		}
	})
}

// fuzzDecoder checks one decoder: it never panics, and what it accepts
// survives being encoded again.
func fuzzDecoder[T any](f *testing.F, decode func([]byte) (T, error), encode func(T) []byte, seeds ...T) {
	for _, s := range seeds {
		f.Add(encode(s))
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(encode(v))
		if err != nil || !reflect.DeepEqual(v, again) {
			t.Errorf("%+v became %+v, %v", v, again, err)
		}
	})
}

func FuzzHello(f *testing.F) { fuzzDecoder(f, DecodeHello, Hello.Encode, Hello{Version, "6.12", true}) }

func FuzzReply(f *testing.F) {
	fuzzDecoder(f, DecodeReply, Reply.Encode, Reply{CodeNotFound, "gone", "data"})
}

func FuzzExit(f *testing.F) { fuzzDecoder(f, DecodeExit, Exit.Encode, Exit{255}) }

func FuzzOOM(f *testing.F) { fuzzDecoder(f, DecodeOOM, OOM.Encode, OOM{2, 1}) }

func FuzzSignal(f *testing.F) { fuzzDecoder(f, DecodeSignal, Signal.Encode, Signal{1, 9, true}) }

func FuzzSpace(f *testing.F) {
	fuzzDecoder(f, DecodeSetSpace, SetSpace.Encode, SetSpace{4, Space{1 << 40, 1 << 20}})
}

func FuzzVolume(f *testing.F) {
	fuzzDecoder(f, DecodeVolume, Volume.Encode, sampleVolume(), Volume{})
}

func FuzzTarget(f *testing.F) { fuzzDecoder(f, DecodeTarget, Target.Encode, Target{7}) }

func FuzzWake(f *testing.F) {
	fuzzDecoder(f, DecodeWake, Wake.Encode, Wake{[EntropySize]byte{1, 31: 9}})
}

func FuzzDial(f *testing.F) { fuzzDecoder(f, DecodeDial, Dial.Encode, sampleDial()) }

func FuzzResize(f *testing.F) { fuzzDecoder(f, DecodeResize, Resize.Encode, Resize{1, 80, 24}) }

func FuzzSandbox(f *testing.F) {
	fuzzDecoder(f, DecodeSandbox, Sandbox.Encode, sampleSandbox(), Sandbox{})
}

func FuzzContainer(f *testing.F) {
	fuzzDecoder(f, DecodeContainer, Container.Encode, sampleContainer(), Container{ID: 1})
}

func FuzzStart(f *testing.F) { fuzzDecoder(f, DecodeStart, Start.Encode, sampleStart()) }

func FuzzStats(f *testing.F) {
	fuzzDecoder(f, func(b []byte) (Stats, error) { return DecodeStats(string(b)) },
		func(s Stats) []byte { return []byte(s.Encode()) }, sampleStats())
}

func FuzzLimits(f *testing.F) {
	fuzzDecoder(f, DecodeSetLimits, SetLimits.Encode, sampleLimits(), SetLimits{})
}

// credit is the two values of a Credit frame.
type credit struct {
	s Stream
	n int
}

func FuzzCredit(f *testing.F) {
	fuzzDecoder(f, func(b []byte) (credit, error) {
		s, n, err := DecodeCredit(b)
		return credit{s, n}, err
	}, func(c credit) []byte { return EncodeCredit(c.s, c.n) }, credit{Stdin, 1 << 16})
}
