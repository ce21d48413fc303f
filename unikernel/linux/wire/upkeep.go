package wire

// Clock is the request to correct the guest's clock.
type Clock struct {
	// Behind is how far it is behind the host's in ns; less than 0 if it is
	// ahead, 0 changes nothing.
	Behind int64
}

// Encode returns the payload.
func (c Clock) Encode() []byte {
	var e Encoder
	e.Int(c.Behind)
	return e.Bytes()
}

// DecodeClock reads the payload of Clock.
func DecodeClock(b []byte) (Clock, error) {
	d := NewDecoder(b)
	c := Clock{Behind: d.Int()}
	return c, d.Err()
}

// Time is what the guest's clock showed before the correction: ns since 1970.
type Time struct{ Now int64 }

// Encode returns the Data of a Reply.
func (t Time) Encode() string {
	var e Encoder
	e.Int(t.Now)
	return string(e.Bytes())
}

// DecodeTime reads the Data of a Reply.
func DecodeTime(data string) (Time, error) {
	d := NewDecoder([]byte(data))
	t := Time{Now: d.Int()}
	return t, d.Err()
}

// Stats are what the guest's kernel counted for the container.
type Stats struct {
	// Files are pairs of name and content of the container's cgroup, version 2.
	// Those that are not there are missing.
	Files [][2]string
	// Network is the content of /proc/net/dev.
	Network string
}

// Encode returns the Data of a Reply.
func (s Stats) Encode() string {
	var e Encoder
	e.Uint(uint64(len(s.Files)))
	for _, f := range s.Files {
		e.String(f[0])
		e.String(f[1])
	}
	e.String(s.Network)
	return string(e.Bytes())
}

// DecodeStats reads the Data of a Reply.
func DecodeStats(data string) (Stats, error) {
	d := NewDecoder([]byte(data))
	s := Stats{Files: list(d, func() [2]string { return [2]string{d.String(), d.String()} }), Network: d.String()}
	return s, d.Err()
}

// Limits is the request to change limits of the container. Nil pointers leave
// what is in force.
type Limits struct {
	// Memory is the most memory it uses, in bytes, Pids the most processes; 0 is
	// no limit but the machine's own.
	Memory, Pids *uint64
}

// Encode returns the payload.
func (l Limits) Encode() []byte {
	var e Encoder
	for _, p := range []*uint64{l.Memory, l.Pids} {
		e.Bool(p != nil)
		if p != nil {
			e.Uint(*p)
		}
	}
	return e.Bytes()
}

// DecodeLimits reads the payload of Limits.
func DecodeLimits(b []byte) (Limits, error) {
	d := NewDecoder(b)
	optional := func() *uint64 {
		if !d.Bool() {
			return nil
		}
		n := d.Uint()
		return &n
	}
	l := Limits{Memory: optional(), Pids: optional()}
	return l, d.Err()
}
