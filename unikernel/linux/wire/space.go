package wire

// Space tells how much the host has for what the container writes.
type Space struct {
	// Free is what is free on the host's disk, Held what the container's disk
	// occupies there already, in bytes.
	Free, Held uint64
}

// Encode returns the payload.
func (s Space) Encode() []byte {
	var e Encoder
	e.Uint(s.Free)
	e.Uint(s.Held)
	return e.Bytes()
}

// DecodeSpace reads the payload of Space.
func DecodeSpace(b []byte) (Space, error) {
	d := NewDecoder(b)
	s := Space{Free: d.Uint(), Held: d.Uint()}
	return s, d.Err()
}
