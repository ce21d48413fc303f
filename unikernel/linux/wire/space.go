package wire

// Space tells how much the host has for what the container writes.
type Space struct {
	// Free is in bytes.
	Free uint64
}

// Encode returns the payload.
func (s Space) Encode() []byte {
	var e Encoder
	e.Uint(s.Free)
	return e.Bytes()
}

// DecodeSpace reads the payload of Space.
func DecodeSpace(b []byte) (Space, error) {
	d := NewDecoder(b)
	s := Space{Free: d.Uint()}
	return s, d.Err()
}
