package wire

// MaxConnections is how many connections a machine has at once that Dial made.
const MaxConnections = 128

// Dial is the host's request to connect to a TCP server in the machine.
type Dial struct {
	// ID names the connection as it would a process, and no process has it.
	ID uint32
	// Address is the server's, of 4 or 16 bytes. Where nobody listens at a loopback
	// address, the other family's is tried too.
	Address string
	Port    uint16
}

// Encode returns the payload.
func (r Dial) Encode() []byte {
	var e Encoder
	e.Uint(uint64(r.ID))
	e.String(r.Address)
	e.Uint(uint64(r.Port))
	return e.Bytes()
}

// DecodeDial reads the payload of Dial.
func DecodeDial(b []byte) (Dial, error) {
	d := NewDecoder(b)
	r := Dial{ID: d.Uint32(), Address: d.String()}
	port := d.Uint()
	if r.Port = uint16(port); port > 1<<16-1 || len(r.Address) != 4 && len(r.Address) != 16 {
		d.fail()
	}
	return r, d.Err()
}
