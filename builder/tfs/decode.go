package tfs

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Tuple is a tuple of a log as it is after the last record. Values are string,
// int64, uint64, *Tuple, []any of these, or Empty.
type Tuple struct {
	// Index is its number in the dictionary.
	Index uint64
	attrs []attr
	// byName finds attributes of a tuple that has many.
	byName map[string]int
}

type attr struct {
	name  string
	value any
}

// manyAttrs is from how many attributes on a tuple has a table of them.
const manyAttrs = 12

// find returns the place of an attribute, or -1.
func (t *Tuple) find(name string) int {
	if t == nil {
		return -1
	}
	if t.byName != nil {
		if i, ok := t.byName[name]; ok {
			return i
		}
		return -1
	}
	return slices.IndexFunc(t.attrs, func(a attr) bool { return a.name == name })
}

// Get returns an attribute; nil if it is not there.
func (t *Tuple) Get(name string) any {
	if i := t.find(name); i >= 0 {
		return t.attrs[i].value
	}
	return nil
}

// set sets an attribute, or removes it where v is nil.
func (t *Tuple) set(name string, v any) {
	i := t.find(name)
	switch {
	case i >= 0:
		t.attrs[i].value = v // nil stays, as a place to be used again
	case v != nil:
		t.attrs = append(t.attrs, attr{name, v})
		if t.byName != nil {
			t.byName[name] = len(t.attrs) - 1
		} else if len(t.attrs) > manyAttrs {
			t.byName = make(map[string]int, 2*len(t.attrs))
			for i, a := range t.attrs {
				t.byName[a.name] = i
			}
		}
	}
}

// all calls f for each attribute, in the order in which they were first set.
func (t *Tuple) all(f func(name string, v any)) {
	for _, a := range t.attrs {
		if a.value != nil {
			f(a.name, a.value)
		}
	}
}

// Empty is the value that says no more than that an attribute is there.
type Empty struct{}

// Limits of what is read: a log can hold anything.
const (
	maxNesting = 1024
	maxLog     = 256 << 20 // bytes
)

var errShort = errors.New("it ends too early")

// decoder takes in records and keeps the dictionary: the tuples, vectors and
// symbols in the order in which they were first named.
type decoder struct {
	dictionary []any // *Tuple, *[]any or symbol
	symbols    map[string]uint64
	b          string // what is left of the record
}

type symbol string

func (d *decoder) add(v any) uint64 {
	d.dictionary = append(d.dictionary, v)
	return uint64(len(d.dictionary))
}

func (d *decoder) find(index uint64) (any, error) {
	if index == 0 || index > uint64(len(d.dictionary)) {
		return nil, fmt.Errorf("index %d of a dictionary of %d", index, len(d.dictionary))
	}
	return d.dictionary[index-1], nil
}

// record takes in one record: attributes of a tuple.
func (d *decoder) record(b string) error {
	d.b = b // names and texts are parts of it
	v, err := d.value(0)
	if err != nil {
		return err
	}
	if _, ok := v.(*Tuple); !ok {
		return errors.New("it is no tuple")
	}
	if len(d.b) > 0 {
		return fmt.Errorf("%d bytes follow its tuple", len(d.b))
	}
	return nil
}

func (d *decoder) byte() (byte, error) {
	if len(d.b) == 0 {
		return 0, errShort
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c, nil
}

func (d *decoder) bytes(n uint64) (string, error) {
	if n > uint64(len(d.b)) {
		return "", errShort
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b, nil
}

// group appends groups of 7 bits to x, up to one without the top bit.
func (d *decoder) group(x uint64) (uint64, error) {
	for {
		c, err := d.byte()
		if err != nil {
			return 0, err
		}
		if x>>57 > 0 {
			return 0, errors.New("a number has more than 64 bits")
		}
		x = x<<7 | uint64(c&0x7f)
		if c&0x80 == 0 {
			return x, nil
		}
	}
}

func (d *decoder) header() (immediate bool, kind byte, n uint64, err error) {
	c, err := d.byte()
	if err != nil {
		return false, 0, 0, err
	}
	immediate, kind, n = c&0x80 > 0, c>>4&0x07, uint64(c&0x07)
	if c&0x08 > 0 {
		n, err = d.group(n)
	}
	return immediate, kind, n, err
}

func (d *decoder) name() (string, error) {
	immediate, kind, n, err := d.header()
	if err != nil {
		return "", err
	}
	if kind != typeBuffer {
		return "", fmt.Errorf("a name has type %d", kind)
	}
	if immediate {
		b, err := d.bytes(n)
		if err != nil {
			return "", err
		}
		index := d.add(symbol(b))
		if _, twice := d.symbols[b]; !twice {
			d.symbols[b] = index
		}
		return b, nil
	}
	v, err := d.find(n)
	if err != nil {
		return "", err
	}
	s, ok := v.(symbol)
	if !ok {
		return "", fmt.Errorf("index %d is no name", n)
	}
	return string(s), nil
}

// value reads one value; nil is the one that removes an attribute.
func (d *decoder) value(depth int) (any, error) {
	if depth > maxNesting {
		return nil, errors.New("values are nested too deep")
	}
	immediate, kind, n, err := d.header()
	if err != nil {
		return nil, err
	}
	switch kind {
	case typeTuple:
		return d.tuple(immediate, n, depth)
	case typeVector:
		return d.vector(immediate, n, depth)
	}
	if !immediate {
		return nil, fmt.Errorf("a value of type %d is a reference", kind)
	}
	switch kind {
	case typeInteger:
		x, err := d.group(0)
		if n > 0 {
			return -int64(x), err
		}
		return x, err
	case typeString:
		b, err := d.bytes(n)
		return b, err
	case typeBuffer:
		b, err := d.bytes(n)
		switch {
		case err != nil || n == 0:
			return nil, err
		case n == 1 && b[0] == 0:
			return Empty{}, nil
		}
		return b, nil
	}
	return nil, fmt.Errorf("a value has type %d", kind)
}

func (d *decoder) tuple(immediate bool, n uint64, depth int) (any, error) {
	var t *Tuple
	if immediate {
		t = &Tuple{attrs: make([]attr, 0, min(n, manyAttrs))}
		t.Index = d.add(t)
	} else {
		v, err := d.reference()
		if err != nil {
			return nil, err
		}
		var ok bool
		if t, ok = v.(*Tuple); !ok {
			return nil, errors.New("a reference to a tuple leads to something else")
		}
	}
	for ; n > 0; n-- {
		name, err := d.name()
		if err != nil {
			return nil, err
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		t.set(name, v)
	}
	return t, nil
}

func (d *decoder) vector(immediate bool, n uint64, depth int) (any, error) {
	v := new([]any)
	if immediate {
		d.add(v)
	} else {
		old, err := d.reference()
		if err != nil {
			return nil, err
		}
		var ok bool
		if v, ok = old.(*[]any); !ok {
			return nil, errors.New("a reference to a vector leads to something else")
		}
		*v = (*v)[:0]
	}
	for ; n > 0; n-- {
		item, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		*v = append(*v, item)
	}
	return *v, nil
}

func (d *decoder) reference() (any, error) {
	index, err := d.group(0)
	if err != nil {
		return nil, err
	}
	return d.find(index)
}

// text is an attribute that is a string, integer one that is a number, and
// child one that is a tuple.
func (t *Tuple) text(name string) (string, bool) {
	s, ok := t.Get(name).(string)
	return s, ok
}

func (t *Tuple) integer(name string) (uint64, bool) {
	switch v := t.Get(name).(type) {
	case uint64:
		return v, true
	case string: // the kernel takes a number in digits too
		n, err := strconv.ParseUint(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}

func (t *Tuple) child(name string) *Tuple {
	c, _ := t.Get(name).(*Tuple)
	return c
}
