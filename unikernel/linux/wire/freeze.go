package wire

// Freeze is the request to stop all processes of a container, or to let them go on.
type Freeze struct {
	Container uint32
	Frozen    bool
}

// Encode returns the payload.
func (f Freeze) Encode() []byte {
	var e Encoder
	e.Uint(uint64(f.Container))
	e.Bool(f.Frozen)
	return e.Bytes()
}

// DecodeFreeze reads the payload of Freeze.
func DecodeFreeze(b []byte) (Freeze, error) {
	d := NewDecoder(b)
	f := Freeze{Container: d.Uint32(), Frozen: d.Bool()}
	return f, d.Err()
}
