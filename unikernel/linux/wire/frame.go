package wire

import (
	"encoding/binary"
	"errors"
	"io"
)

// Version is the protocol's version, sent in Hello. The two sides must have
// the same one.
const Version = 12

// Magic starts the payload of Hello.
const Magic = "uni-guest"

// Sizes in bytes.
const (
	// MaxGuestPayload bounds a frame that the guest sends.
	MaxGuestPayload = 64 << 10
	// MaxHostPayload bounds a frame that the host sends: arguments and
	// environment of a process are one frame, and Linux lets them be 6 MiB
	// at most.
	MaxHostPayload = 8 << 20
	// MaxData is the most data in one frame. Header and data together are the
	// 32 KiB that Linux' virtio console driver takes with one write.
	MaxData = 32<<10 - headerSize
	// OutWindow is the guest's first credit for each of stdout and stderr.
	OutWindow = 256 << 10
	// InWindow is the host's first credit for stdin.
	InWindow = 64 << 10
	// ExitBurst is what the guest may send beyond its credit when a process
	// exits: the largest pipe an ordinary user can make (fs.pipe-max-size).
	ExitBurst = 1 << 20
)

const headerSize = 8

// Kind is the kind of a frame.
type Kind byte

// Kinds of frames.
const (
	KindHello     Kind = iota + 1 // guest: Hello; id 0
	KindRun                       // host: Start; id of the request
	KindExec                      // host: Start; id of the request
	KindSignal                    // host: Signal; id of the request
	KindResize                    // host: Resize; id of the request
	KindReply                     // guest: Reply; id of the request answered
	KindData                      // both: stream byte, then the data; id of the process
	KindEOF                       // both: stream byte; id of the process
	KindCredit                    // both: stream byte, then a varint; id of the process
	KindExit                      // guest: Exit; id of the process
	KindShutdown                  // host: all exits are recorded; id of the request, answered when all is on the disks
	KindOOM                       // guest: OOM; id 0
	KindClock                     // host: Clock; id of the request. The reply holds a Time
	KindStats                     // host: Target; id of the request. The reply holds Stats
	KindLimit                     // host: SetLimits; id of the request
	KindSpace                     // host: SetSpace; id of the request
	KindSandbox                   // host: Sandbox; id of the request
	KindContainer                 // host: Container; id of the request
	KindRemove                    // host: Target; id of the request, answered when its disks are free
	KindDial                      // host: Dial; id of the request, answered when the server took the connection
	KindVolume                    // host: Volume; id of the request
	KindFreeze                    // host: Freeze; id of the request, answered when it is so
	KindPark                      // host: id of the request, before Sandbox. See the package's comment
	KindWake                      // host: Wake; id of the request
	kindEnd
)

// Errors of Reader and of the decoders.
var (
	// ErrFrame: the bytes are no frame of this protocol.
	ErrFrame = errors.New("malformed frame")
	// ErrTooLarge: a frame is larger than its side may send.
	ErrTooLarge = errors.New("frame too large")
)

// Frame is one frame. Its payload is valid until the next Read.
type Frame struct {
	Kind    Kind
	ID      uint32
	Payload []byte
}

// AppendFrame appends the frame's bytes to b. The payload must be shorter than
// 16 MiB.
func AppendFrame(b []byte, kind Kind, id uint32, payload ...[]byte) []byte {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	b = append(b, byte(kind), byte(n), byte(n>>8), byte(n>>16))
	b = binary.LittleEndian.AppendUint32(b, id)
	for _, p := range payload {
		b = append(b, p...)
	}
	return b
}

// Reader reads frames. It allocates no more than what arrived.
type Reader struct {
	r     io.Reader
	limit int
	head  [headerSize]byte
	buf   []byte
}

// NewReader returns a Reader of frames whose payload is at most limit bytes.
func NewReader(r io.Reader, limit int) *Reader {
	return &Reader{r: r, limit: limit}
}

// Read returns the next frame. It returns io.EOF at the end between two frames
// and io.ErrUnexpectedEOF inside one.
func (r *Reader) Read() (Frame, error) {
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: Kind(r.head[0]), ID: binary.LittleEndian.Uint32(r.head[4:])}
	if f.Kind == 0 || f.Kind >= kindEnd {
		return Frame{}, ErrFrame
	}
	n := int(r.head[1]) | int(r.head[2])<<8 | int(r.head[3])<<16
	if n > r.limit {
		return Frame{}, ErrTooLarge
	}
	payload, err := r.payload(n)
	f.Payload = payload
	return f, err
}

// payload reads n bytes, growing its buffer as they arrive so that a header
// alone makes nobody allocate.
func (r *Reader) payload(n int) ([]byte, error) {
	const step = 64 << 10
	got := 0
	for got < n {
		want := min(n, got+step)
		if want > cap(r.buf) {
			r.buf = append(r.buf[:cap(r.buf)], make([]byte, want-cap(r.buf))...)
		}
		m, err := io.ReadFull(r.r, r.buf[got:want])
		got += m
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	if cap(r.buf) > step && n <= step {
		small := append([]byte(nil), r.buf[:n]...)
		r.buf = nil
		return small, nil
	}
	return r.buf[:n], nil
}
