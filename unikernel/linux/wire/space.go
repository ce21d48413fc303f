package wire

// Space tells how much the host has for what a container writes.
type Space struct {
	// Free is what is free on the host's disk, Held what the container's disk
	// occupies there already, in bytes.
	Free, Held uint64
}

func (s Space) encode(e *Encoder) {
	e.Uint(s.Free)
	e.Uint(s.Held)
}

func decodeSpace(d *Decoder) Space { return Space{Free: d.Uint(), Held: d.Uint()} }

// SetSpace is the request to take note of the space of a container that is
// there.
type SetSpace struct {
	Container uint32
	Space
}

// Encode returns the payload.
func (s SetSpace) Encode() []byte {
	var e Encoder
	e.Uint(uint64(s.Container))
	s.Space.encode(&e)
	return e.Bytes()
}

// DecodeSetSpace reads the payload of SetSpace.
func DecodeSetSpace(b []byte) (SetSpace, error) {
	d := NewDecoder(b)
	s := SetSpace{Container: d.Uint32(), Space: decodeSpace(d)}
	return s, d.Err()
}
