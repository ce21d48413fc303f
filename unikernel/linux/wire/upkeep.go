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

// Stats are what the guest's kernel counted for a container.
type Stats struct {
	// Files are pairs of name and content of the container's cgroup, version 2.
	// Those that are not there are missing.
	Files [][2]string
	// Network is the content of /proc/net/dev, the machine's.
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

// Limits are limits of a container's cgroup. Nil pointers leave what is in force.
type Limits struct {
	// Memory is the most memory it uses, in bytes, Pids the most processes; 0 is
	// no limit but the machine's own.
	Memory, Pids *uint64
	CPU          *CPU
}

// CPU is how much of the machine's processors a container gets.
type CPU struct {
	// Quota is the time in µs that it may use in each Period, of all processors
	// together; 0 is no limit.
	Quota, Period uint64
	// Weight is its part when there is not enough for all, as the cgroup's
	// cpu.weight: 1–10000; 0 leaves what is in force.
	Weight uint64
}

func (l Limits) encode(e *Encoder) {
	for _, p := range []*uint64{l.Memory, l.Pids} {
		e.Bool(p != nil)
		if p != nil {
			e.Uint(*p)
		}
	}
	e.Bool(l.CPU != nil)
	if l.CPU != nil {
		e.Uint(l.CPU.Quota)
		e.Uint(l.CPU.Period)
		e.Uint(l.CPU.Weight)
	}
}

func decodeLimits(d *Decoder) Limits {
	return Limits{Memory: optional(d, d.Uint), Pids: optional(d, d.Uint),
		CPU: optional(d, func() CPU { return CPU{Quota: d.Uint(), Period: d.Uint(), Weight: d.Uint()} })}
}

// SetLimits is the request to change limits of a container.
type SetLimits struct {
	Container uint32
	Limits
}

// Encode returns the payload.
func (l SetLimits) Encode() []byte {
	var e Encoder
	e.Uint(uint64(l.Container))
	l.Limits.encode(&e)
	return e.Bytes()
}

// DecodeSetLimits reads the payload of SetLimits.
func DecodeSetLimits(b []byte) (SetLimits, error) {
	d := NewDecoder(b)
	l := SetLimits{Container: d.Uint32(), Limits: decodeLimits(d)}
	return l, d.Err()
}

// Target is the payload of requests that need nothing but a container.
type Target struct{ Container uint32 }

// Encode returns the payload.
func (t Target) Encode() []byte {
	var e Encoder
	e.Uint(uint64(t.Container))
	return e.Bytes()
}

// DecodeTarget reads the payload of Target.
func DecodeTarget(b []byte) (Target, error) {
	d := NewDecoder(b)
	t := Target{Container: d.Uint32()}
	return t, d.Err()
}
