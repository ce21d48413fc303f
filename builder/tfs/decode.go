package tfs

import (
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
)

// Limits of what is read: a log can hold anything.
const (
	maxNesting = 1024
	// maxAgain is how deep attributes of an earlier tuple can be in a value:
	// what the kernel writes has them outermost.
	maxAgain = 16
	maxLog   = 64 << 20 // bytes
	// maxExtension bounds one extension of a log, in bytes. The kernel's have 512
	// KiB.
	maxExtension = 4 << 20
)

// maxItems bounds what records make and refer to: a hostile log has one for each
// byte, one of a root four for each file. Each takes 24 bytes of memory, up to 100
// when it is looked for or at. Tests lower it.
var maxItems = 2 << 20

// againCost is what a further segment of a tuple takes, in items.
const againCost = 4

var errShort = errors.New("it ends too early")

// decoder takes in records and keeps the dictionary: the tuples, vectors and
// symbols in the order in which they were first named. What is in a tuple is
// checked at once and decoded when somebody asks: a container's configuration
// needs a few of many thousands. What there are many of has no pointers, which
// would cost more than all the rest.
type decoder struct {
	text       []byte // all records, one after the other
	dictionary dictionary
	more       map[uint64][]segment // of tuples and vectors that come again
	again      int                  // segments in more
	tuples     map[uint64]*Tuple    // that somebody asked for

	seed  maphash.Seed
	names map[uint64]uint32 // the first index of a name, by its hash
}

// dictionary grows without being copied: what it takes is what is in it.
type dictionary struct{ chunks [][]item }

const chunkItems = 16 << 10

func (d *dictionary) add(it item) {
	last := len(d.chunks) - 1
	if last < 0 || len(d.chunks[last]) == chunkItems {
		size := chunkItems
		if last < 0 {
			size = 1024 // of many logs that is all
		}
		d.chunks = append(d.chunks, make([]item, 0, size))
		last++
	}
	d.chunks[last] = append(d.chunks[last], it)
}

func (d *dictionary) len() int {
	if len(d.chunks) == 0 {
		return 0
	}
	last := len(d.chunks) - 1
	return last*chunkItems + len(d.chunks[last])
}

// at returns the item of an index, which is one.
func (d *dictionary) at(index uint64) *item {
	return &d.chunks[(index-1)/chunkItems][(index-1)%chunkItems]
}

// all goes over the items, from index 1 on, as number 0.
func (d *dictionary) all() iter.Seq2[int, item] {
	return func(yield func(int, item) bool) {
		for i, chunk := range d.chunks {
			for j, it := range chunk {
				if !yield(i*chunkItems+j, it) {
					return
				}
			}
		}
	}
}

// item is what has an index, and where it was made.
type item struct {
	kind byte // typeBuffer for a symbol, whose name has n bytes
	segment
	// end is where a tuple or vector ends in the text, after how many indices
	// were given by then: the way over it is short, however much is in it.
	end, after uint32
}

// segment is a part of a record: attributes of a tuple or items of a vector.
type segment struct {
	at     uint32 // in the text
	n      uint32
	before uint32 // how many indices were given before
}

func newDecoder() *decoder {
	return &decoder{more: map[uint64][]segment{}, tuples: map[uint64]*Tuple{}, seed: maphash.MakeSeed()}
}

// expect makes room for about what an extension of full size holds.
func (d *decoder) expect() {
	d.text = slices.Grow(d.text, extensionSize)
}

// symbol returns the first index of a name; 0 if it has none.
func (d *decoder) symbol(name string) uint64 {
	if d.names == nil {
		d.names = make(map[uint64]uint32, d.dictionary.len()/3)
		for i, it := range d.dictionary.all() {
			if it.kind != typeBuffer {
				continue
			}
			h := maphash.Bytes(d.seed, d.name(it))
			if _, twice := d.names[h]; !twice {
				d.names[h] = uint32(i + 1)
			}
		}
	}
	i, ok := d.names[maphash.String(d.seed, name)]
	if !ok || string(d.name(*d.dictionary.at(uint64(i)))) == name {
		return uint64(i)
	}
	// Two names of one hash.
	for i, it := range d.dictionary.all() {
		if it.kind == typeBuffer && string(d.name(it)) == name {
			return uint64(i + 1)
		}
	}
	return 0
}

// name returns a symbol's.
func (d *decoder) name(it item) []byte { return d.text[it.at:][:it.n] }

// record takes in the record that the text ends with.
func (d *decoder) record(at int) error {
	w := walker{d: d, at: at, isNew: true, count: uint64(d.dictionary.len())}
	kind, err := w.value(0)
	switch {
	case err != nil:
		return err
	case kind != typeTuple:
		return errors.New("it is no tuple")
	case w.at < len(d.text):
		return fmt.Errorf("%d bytes follow its tuple", len(d.text)-w.at)
	}
	return nil
}

// kind returns the type of what has an index.
func (d *decoder) kind(index uint64) (byte, error) {
	if index == 0 || index > uint64(d.dictionary.len()) {
		return 0, fmt.Errorf("index %d of a dictionary of %d", index, d.dictionary.len())
	}
	return d.dictionary.at(index).kind, nil
}

// tuple returns the tuple of an index that is one.
func (d *decoder) tuple(index uint64) *Tuple {
	t := d.tuples[index]
	if t == nil {
		t = &Tuple{Index: index, coded: d}
		d.tuples[index] = t
	}
	return t
}

// segments returns all parts of a tuple or vector, in order.
func (d *decoder) segments(index uint64) []segment {
	return append([]segment{d.dictionary.at(index).segment}, d.more[index]...)
}

// walker goes over a record, or a part of it.
type walker struct {
	d     *decoder
	at    int    // in the text
	count uint64 // of the indices given so far
	isNew bool   // it was not checked and is not in the dictionary
}

// bytes goes over n bytes and returns where they are.
func (w *walker) bytes(n uint64) (at int, err error) {
	at = w.at
	if n > uint64(len(w.d.text)-at) {
		return 0, errShort
	}
	w.at += int(n)
	return at, nil
}

func (w *walker) group(x uint64) (uint64, error) {
	x, n, err := group(w.d.text[w.at:], x)
	w.at += n
	return x, err
}

// group appends groups of 7 bits to x, up to one without the top bit, and
// returns how many bytes that were.
func group(b []byte, x uint64) (uint64, int, error) {
	for i, c := range b {
		if x>>57 > 0 {
			return 0, i, errors.New("a number has more than 64 bits")
		}
		x = x<<7 | uint64(c&0x7f)
		if c&0x80 == 0 {
			return x, i + 1, nil
		}
	}
	return 0, len(b), errShort
}

func (w *walker) header() (immediate bool, kind byte, n uint64, err error) {
	if w.at >= len(w.d.text) {
		return false, 0, 0, errShort
	}
	c := w.d.text[w.at]
	w.at++
	immediate, kind, n = c&0x80 > 0, c>>4&0x07, uint64(c&0x07)
	if c&0x08 > 0 {
		n, err = w.group(n)
	}
	return immediate, kind, n, err
}

// add gives the next index.
func (w *walker) add(kind byte, at int, n uint64) uint64 {
	w.count++
	if w.isNew {
		w.d.dictionary.add(item{kind: kind, segment: newSegment(at, n, w.count)})
	}
	return w.count
}

func newSegment(at int, n, before uint64) segment {
	// A count beyond 32 bits is not to be found in any record.
	return segment{uint32(at), uint32(min(n, 1<<32-1)), uint32(before)}
}

// name goes over the name of an attribute.
func (w *walker) name() ([]byte, error) {
	immediate, kind, n, err := w.header()
	if err != nil {
		return nil, err
	}
	if kind != typeBuffer {
		return nil, fmt.Errorf("a name has type %d", kind)
	}
	if immediate {
		at, err := w.bytes(n)
		if err != nil {
			return nil, err
		}
		w.add(typeBuffer, at, n)
		return w.d.text[at:w.at], nil
	}
	if kind, err := w.d.kind(n); err != nil || kind != typeBuffer {
		return nil, errors.Join(err, fmt.Errorf("index %d is no name", n))
	}
	return w.d.name(*w.d.dictionary.at(n)), nil
}

// value goes over one value and all that is in it.
func (w *walker) value(depth int) (kind byte, err error) {
	if depth > maxNesting {
		return 0, errors.New("values are nested too deep")
	}
	if w.isNew && w.d.dictionary.len()+againCost*w.d.again > maxItems {
		return 0, fmt.Errorf("more than %d tuples, vectors and names", maxItems)
	}
	immediate, kind, n, err := w.header()
	if err != nil {
		return 0, err
	}
	if kind == typeTuple || kind == typeVector {
		if !immediate && n > 0 && depth > maxAgain {
			return 0, errors.New("attributes of earlier tuples are nested too deep")
		}
		_, err := w.composite(immediate, kind, n, depth)
		return kind, err
	}
	return kind, w.scalar(immediate, kind, n)
}

// composite goes over a tuple or vector and returns its index.
func (w *walker) composite(immediate bool, kind byte, n uint64, depth int) (index uint64, err error) {
	if index, err = w.begin(immediate, kind, n); err != nil {
		return 0, err
	}
	if immediate && !w.isNew {
		it := w.d.dictionary.at(index)
		w.at, w.count = int(it.end), uint64(it.after)
		return index, nil
	}
	if err := w.contents(kind, n, depth); err != nil {
		return 0, err
	}
	if immediate {
		it := w.d.dictionary.at(index)
		it.end, it.after = uint32(w.at), uint32(w.count)
	}
	return index, nil
}

// begin goes over the start of a tuple or vector and returns its index.
func (w *walker) begin(immediate bool, kind byte, n uint64) (index uint64, err error) {
	if immediate {
		return w.add(kind, w.at, n), nil
	}
	if index, err = w.group(0); err != nil {
		return 0, err
	}
	if !w.isNew {
		return index, nil
	}
	if is, err := w.d.kind(index); err != nil || is != kind {
		return 0, errors.Join(err, errors.New("a reference leads to something else"))
	}
	if n > 0 {
		w.d.again++
		w.d.more[index] = append(w.d.more[index], newSegment(w.at, n, w.count))
	}
	return index, nil
}

// contents goes over n attributes of a tuple or items of a vector.
func (w *walker) contents(kind byte, n uint64, depth int) error {
	for ; n > 0; n-- {
		var name []byte
		if kind == typeTuple {
			var err error
			if name, err = w.name(); err != nil {
				return err
			}
		}
		if _, err := w.value(depth + 1); err != nil {
			return fmt.Errorf("%.100q: %w", name, err)
		}
	}
	return nil
}

// scalar goes over a value that holds no others.
func (w *walker) scalar(immediate bool, kind byte, n uint64) error {
	if !immediate {
		return fmt.Errorf("a value of type %d is a reference", kind)
	}
	var err error
	switch kind {
	case typeInteger:
		_, err = w.group(0)
	case typeString, typeBuffer:
		_, err = w.bytes(n)
	default:
		err = fmt.Errorf("a value has type %d", kind)
	}
	return err
}
