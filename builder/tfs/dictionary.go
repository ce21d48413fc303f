package tfs

// encoder encodes records. What is named once, a symbol, or made once, a tuple
// or a vector, is referred to by its index from then on: a second index for the
// same symbol would make the kernel's own count wrong.
type encoder struct {
	symbols map[string]uint64
	known   func(name string) uint64 // symbols of an earlier log; nil for none
	count   uint64                   // of indices given, the last is count
	b       []byte                   // the record
}

func newEncoder() *encoder { return &encoder{symbols: map[string]uint64{}} }

func (e *encoder) next() uint64 {
	e.count++
	return e.count
}

// symbol appends the name of an attribute.
func (e *encoder) symbol(name string) {
	i := e.symbols[name]
	if i == 0 && e.known != nil {
		i = e.known(name)
	}
	if i > 0 {
		e.b = appendHeader(e.b, false, typeBuffer, i)
		return
	}
	e.b = appendHeader(e.b, true, typeBuffer, uint64(len(name)))
	e.b = append(e.b, name...)
	e.symbols[name] = e.next()
}

// tuple begins a new tuple of n attributes, and returns its index.
func (e *encoder) tuple(n int) uint64 {
	e.b = appendHeader(e.b, true, typeTuple, uint64(n))
	return e.next()
}

// again begins n more attributes of the tuple with this index.
func (e *encoder) again(index uint64, n int) {
	e.b = appendHeader(e.b, false, typeTuple, uint64(n))
	e.b = appendVarint(e.b, index)
}

func (e *encoder) integer(n uint64) {
	e.b = appendHeader(e.b, true, typeInteger, 0)
	e.b = appendVarint(e.b, n)
}

func (e *encoder) string(s string) {
	e.b = appendHeader(e.b, true, typeString, uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) vector(v Vector) {
	e.b = appendHeader(e.b, true, typeVector, uint64(len(v)))
	e.next()
	for _, s := range v {
		e.string(s)
	}
}

// settings appends the attributes of a tuple that has been begun. It reports
// false for a value of a type that is none of those a Setting can have.
func (e *encoder) settings(list Settings) bool {
	for _, s := range list {
		e.symbol(s.Name)
		switch v := s.Value.(type) {
		case string:
			e.string(v)
		case uint64:
			e.integer(v)
		case Vector:
			e.vector(v)
		case Settings:
			e.tuple(len(v))
			if !e.settings(v) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// extent is a run of sectors of a file.
type extent struct {
	at      uint64 // in the file, in sectors
	start   uint64 // on the disk, in sectors
	sectors uint64
}

// fileTuple appends a new regular file, with extra attributes to follow, and
// returns its index.
func (e *encoder) fileTuple(length int64, extents []extent, extra int) uint64 {
	index := e.tuple(2 + extra)
	e.symbol(attrLength)
	e.integer(uint64(length))
	e.symbol(attrExtents)
	e.tuple(len(extents))
	for _, x := range extents {
		e.symbol(decimal(x.at))
		e.tuple(3)
		e.symbol(attrOffset)
		e.integer(x.start)
		e.symbol(attrSectors)
		e.integer(x.sectors)
		e.symbol(attrAllocated)
		e.integer(x.sectors)
	}
	return index
}
