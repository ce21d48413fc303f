package tfs

import (
	"slices"
	"strconv"
)

// Tuple is a tuple of a log as it is after the last record. Values are string,
// int64, uint64, *Tuple, *List or Empty. It is not for use by several
// goroutines at once, nor are others of the same file system.
type Tuple struct {
	// Index is its number in the dictionary.
	Index uint64
	coded *decoder // has the attributes; nil once they are decoded
	attrs []attr
	// byName finds attributes of a tuple that has many.
	byName map[string]int
}

type attr struct {
	name  string
	value any
}

// List is a vector.
type List struct {
	index uint64
	d     *decoder
}

// Empty is the value that says no more than that an attribute is there.
type Empty struct{}

// manyAttrs is from how many attributes on a tuple has a table of them.
const manyAttrs = 12

// Get returns an attribute; nil if it is not there.
func (t *Tuple) Get(name string) any {
	if i := t.find(name); i >= 0 {
		return t.attrs[i].value
	}
	return nil
}

// all calls f for each attribute, in the order in which they were first set.
func (t *Tuple) all(f func(name string, v any)) {
	t.decode()
	for _, a := range t.attrs {
		if a.value != nil {
			f(a.name, a.value)
		}
	}
}

// find returns the place of an attribute, or -1.
func (t *Tuple) find(name string) int {
	if t == nil {
		return -1
	}
	t.decode()
	if t.byName != nil {
		if i, ok := t.byName[name]; ok {
			return i
		}
		return -1
	}
	return slices.IndexFunc(t.attrs, func(a attr) bool { return a.name == name })
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

// decode decodes the attributes, but not those of tuples among them. They were
// checked before: there are no errors.
func (t *Tuple) decode() {
	d := t.coded
	if d == nil {
		return
	}
	t.coded = nil
	for _, s := range d.segments(t.Index) {
		w := walker{d: d, at: int(s.at), count: uint64(s.before)}
		for range s.n {
			name, _ := w.name()
			t.set(string(name), w.shallow())
		}
	}
}

// Items returns what is in the list.
func (l *List) Items() []any {
	all := l.d.segments(l.index)
	s := all[len(all)-1] // a later one replaces all of it
	w := walker{d: l.d, at: int(s.at), count: uint64(s.before)}
	var list []any
	for range s.n {
		list = append(list, w.shallow())
	}
	return list
}

// shallow decodes one value, but not what is in it; nil is the one that removes
// an attribute.
func (w *walker) shallow() any {
	immediate, kind, n, _ := w.header()
	switch kind {
	case typeTuple, typeVector:
		index, _ := w.composite(immediate, kind, n, 0)
		if kind == typeVector {
			return &List{index, w.d}
		}
		return w.d.tuple(index)
	case typeInteger:
		x, _ := w.group(0)
		if n > 0 {
			return -int64(x)
		}
		return x
	}
	at, _ := w.bytes(n)
	b := string(w.d.text[at:w.at])
	switch {
	case kind == typeString:
		return b
	case n == 0:
		return nil
	case n == 1 && b[0] == 0:
		return Empty{}
	}
	return b
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
