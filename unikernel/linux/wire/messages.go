package wire

// Stream is one of a process' streams, numbered as its file descriptor.
type Stream byte

// The streams. A terminal uses Stdin and Stdout.
const (
	Stdin Stream = iota
	Stdout
	Stderr
)

// Hello is the guest's first frame.
type Hello struct {
	Version uint64
	// Kernel is the guest kernel's release, for the log.
	Kernel string
	// Parked says that the guest waits for Wake.
	Parked bool
}

// Encode returns the payload.
func (h Hello) Encode() []byte {
	var e Encoder
	e.String(Magic)
	e.Uint(h.Version)
	e.String(h.Kernel)
	e.Bool(h.Parked)
	return e.Bytes()
}

// DecodeHello reads the payload of Hello.
func DecodeHello(b []byte) (Hello, error) {
	d := NewDecoder(b)
	if d.String() != Magic {
		return Hello{}, ErrFrame
	}
	h := Hello{Version: d.Uint(), Kernel: d.String(), Parked: d.Bool()}
	return h, d.Err()
}

// Code classifies the error of a Reply.
type Code uint64

// Codes of a Reply.
const (
	CodeOK       Code = iota
	CodeNotFound      // no such process or program
	CodeInvalid       // what was asked is wrong
	CodeInternal      // the guest failed
)

// Reply answers a request.
type Reply struct {
	Code Code
	// Text is the error for a person; empty when Code is CodeOK.
	Text string
	// Data is what was asked for, as its own type encodes it.
	Data string
}

// Encode returns the payload.
func (r Reply) Encode() []byte {
	var e Encoder
	e.Uint(uint64(r.Code))
	e.String(r.Text)
	e.String(r.Data)
	return e.Bytes()
}

// DecodeReply reads the payload of a Reply.
func DecodeReply(b []byte) (Reply, error) {
	d := NewDecoder(b)
	r := Reply{Code: Code(d.Uint()), Text: d.String(), Data: d.String()}
	return r, d.Err()
}

// Exit tells that a process exited and that what it left in its pipes was sent.
type Exit struct {
	// Status is 0–255; 128 plus the signal's number if one ended it.
	Status uint32
}

// Encode returns the payload.
func (x Exit) Encode() []byte {
	var e Encoder
	e.Uint(uint64(x.Status))
	return e.Bytes()
}

// DecodeExit reads the payload of Exit.
func DecodeExit(b []byte) (Exit, error) {
	d := NewDecoder(b)
	x := Exit{Status: d.Uint32()}
	if x.Status > 255 {
		d.fail()
	}
	return x, d.Err()
}

// OOM tells that the guest's kernel killed processes of a container for want of
// memory. It comes before the Exit of any of them.
type OOM struct {
	Container uint32
	// Kills is how many, since the last time it was told; not 0.
	Kills uint64
}

// Encode returns the payload.
func (o OOM) Encode() []byte {
	var e Encoder
	e.Uint(uint64(o.Container))
	e.Uint(o.Kills)
	return e.Bytes()
}

// DecodeOOM reads the payload of OOM.
func DecodeOOM(b []byte) (OOM, error) {
	d := NewDecoder(b)
	o := OOM{Container: d.Uint32(), Kills: d.Uint()}
	if o.Kills == 0 {
		d.fail()
	}
	return o, d.Err()
}

// Signal is the request to signal a process.
type Signal struct {
	Process uint32
	Signal  uint32
	// All signals every process of its container.
	All bool
}

// Encode returns the payload.
func (s Signal) Encode() []byte {
	var e Encoder
	e.Uint(uint64(s.Process))
	e.Uint(uint64(s.Signal))
	e.Bool(s.All)
	return e.Bytes()
}

// DecodeSignal reads the payload of Signal.
func DecodeSignal(b []byte) (Signal, error) {
	d := NewDecoder(b)
	s := Signal{Process: d.Uint32(), Signal: d.Uint32(), All: d.Bool()}
	return s, d.Err()
}

// Resize is the request to set the size of a process' terminal, in characters.
type Resize struct {
	Process       uint32
	Width, Height uint16
}

// Encode returns the payload.
func (r Resize) Encode() []byte {
	var e Encoder
	e.Uint(uint64(r.Process))
	e.Uint(uint64(r.Width))
	e.Uint(uint64(r.Height))
	return e.Bytes()
}

// DecodeResize reads the payload of Resize.
func DecodeResize(b []byte) (Resize, error) {
	d := NewDecoder(b)
	r := Resize{Process: d.Uint32()}
	w, h := d.Uint(), d.Uint()
	if w > 1<<16-1 || h > 1<<16-1 {
		d.fail()
	}
	r.Width, r.Height = uint16(w), uint16(h)
	return r, d.Err()
}

// DecodeStream reads the stream and the rest of the payload of a Data or EOF
// frame.
func DecodeStream(b []byte) (Stream, []byte, error) {
	if len(b) == 0 || b[0] > byte(Stderr) {
		return 0, nil, ErrFrame
	}
	return Stream(b[0]), b[1:], nil
}

// EncodeCredit returns the payload of a Credit frame that gives n bytes.
func EncodeCredit(s Stream, n int) []byte {
	e := Encoder{b: []byte{byte(s)}}
	e.Uint(uint64(n))
	return e.Bytes()
}

// DecodeCredit reads the payload of a Credit frame. A credit is never 0 nor larger
// than OutWindow+ExitBurst: no receiver can have had more to give back.
func DecodeCredit(b []byte) (Stream, int, error) {
	s, rest, err := DecodeStream(b)
	if err != nil {
		return 0, 0, err
	}
	d := NewDecoder(rest)
	n := d.Uint()
	if n == 0 || n > OutWindow+ExitBurst {
		d.fail()
	}
	return s, int(n), d.Err()
}
