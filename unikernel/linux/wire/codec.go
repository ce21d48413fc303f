package wire

import "encoding/binary"

// Encoder builds a payload.
type Encoder struct{ b []byte }

// Bytes returns the payload so far.
func (e *Encoder) Bytes() []byte { return e.b }

// Uint appends an unsigned integer.
func (e *Encoder) Uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }

// Int appends a signed integer.
func (e *Encoder) Int(v int64) { e.b = binary.AppendVarint(e.b, v) }

// Bool appends a truth value.
func (e *Encoder) Bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

// String appends a string.
func (e *Encoder) String(s string) {
	e.Uint(uint64(len(s)))
	e.b = append(e.b, s...)
}

// Strings appends a list of strings.
func (e *Encoder) Strings(l []string) {
	e.Uint(uint64(len(l)))
	for _, s := range l {
		e.String(s)
	}
}

// Decoder reads a payload in the order it was written. After the first value
// that is not there every further one is zero and Err tells.
type Decoder struct {
	b   []byte
	bad bool
}

// NewDecoder returns a Decoder of a payload.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// Err returns ErrFrame if anything read so far was not there, or if bytes are
// left over.
func (d *Decoder) Err() error {
	if d.bad || len(d.b) != 0 {
		return ErrFrame
	}
	return nil
}

func (d *Decoder) fail() {
	d.bad = true
	d.b = nil
}

// Uint reads an unsigned integer.
func (d *Decoder) Uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Uint32 reads an unsigned integer of at most 32 bits.
func (d *Decoder) Uint32() uint32 {
	v := d.Uint()
	if v > 1<<32-1 {
		d.fail()
		return 0
	}
	return uint32(v)
}

// Int reads a signed integer.
func (d *Decoder) Int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Byte reads one byte.
func (d *Decoder) Byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

// Bool reads a truth value.
func (d *Decoder) Bool() bool {
	c := d.Byte()
	if c > 1 {
		d.fail()
	}
	return c == 1
}

// String reads a string.
func (d *Decoder) String() string {
	n := d.Uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// Count reads the length of a list whose elements take at least one byte each.
func (d *Decoder) Count() int {
	n := d.Uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

// Strings reads a list of strings; an empty one is nil.
func (d *Decoder) Strings() []string { return list(d, d.String) }

// list reads a list. It grows as elements arrive, so a count alone makes
// nobody allocate.
func list[T any](d *Decoder, read func() T) []T {
	n := d.Count()
	var l []T
	for i := 0; i < n && !d.bad; i++ {
		l = append(l, read())
	}
	if d.bad {
		return nil
	}
	return l
}

// optional reads what may be missing; a truth value in front says whether it is.
func optional[T any](d *Decoder, read func() T) *T {
	if !d.Bool() {
		return nil
	}
	v := read()
	return &v
}

// Rest returns all bytes that are left.
func (d *Decoder) Rest() []byte {
	b := d.b
	d.b = nil
	return b
}
