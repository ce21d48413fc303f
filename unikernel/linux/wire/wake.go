package wire

// EntropySize is how many bytes of Wake.Entropy there are: what the kernel's
// generator is keyed with (drivers/char/random.c, BLAKE2S_HASH_SIZE).
const EntropySize = 32

// Wake is the request that makes a parked machine one of its own.
type Wake struct {
	// Entropy is what only the host and this machine know.
	Entropy [EntropySize]byte
}

// Encode returns the payload.
func (w Wake) Encode() []byte {
	var e Encoder
	e.String(string(w.Entropy[:]))
	return e.Bytes()
}

// DecodeWake reads the payload of Wake.
func DecodeWake(b []byte) (Wake, error) {
	d := NewDecoder(b)
	var w Wake
	entropy := d.String()
	if len(entropy) != EntropySize {
		d.fail()
	}
	copy(w.Entropy[:], entropy)
	return w, d.Err()
}
