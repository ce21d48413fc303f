package tfs

import (
	"errors"

	"strings"
	"testing"

	"containerd-shim-uni/unikernel/boundtest"
)

// chain is a disk with a log of extensions that all hold the same frames, without
// an end: what compression or qcow2 makes of some kilobytes.
type chain struct {
	frames []byte
	size   int64
}

func (c chain) ReadAt(p []byte, off int64) (int, error) {
	if off%sectorSize != 0 {
		return 0, errors.New("not at a sector")
	}
	sector := uint64(off / sectorSize)
	var b []byte
	next := uint64(firstData)
	if sector == 0 {
		b = append(newExtension(nil, sectorSize), make([]byte, uuidSize+1)...)
	} else {
		b, next = append(newExtension(nil, extensionSize), c.frames...), sector+extensionSize/sectorSize
	}
	n := copy(p, appendLink(b, next))
	clear(p[n:])
	return len(p), nil
}

// frames are those of one record that e makes, as often as an extension has
// room for it.
func frames(fill bool, make func(*encoder)) (b []byte) {
	e := newEncoder()
	e.count = 2 // the root and its entries
	make(e)
	for len(b) == 0 || fill && len(b)+len(e.b)+64 < extensionSize {
		b = appendFrame(b, e.b, len(e.b), true)
	}
	return b
}

// Whatever a log is made of (the disk here makes it anew, which counts), it takes no more than what is bounded: its bytes,
// which grow by doubling, and its items.
func TestEndlessLogs(t *testing.T) {
	root := frames(false, func(e *encoder) {
		e.count = 0
		e.tuple(1)
		e.symbol(attrChildren)
		e.tuple(0)
	})
	again := func(f func(e *encoder)) func(e *encoder) {
		return func(e *encoder) {
			e.again(1, 1)
			e.symbol("a")
			f(e)
		}
	}
	for name, tt := range map[string]struct {
		frames []byte
		most   uint64
	}{
		"items": {frames(false, again(func(e *encoder) {
			e.b = appendHeader(e.b, true, typeVector, 500_000)
			for range 500_000 {
				e.b = appendHeader(e.b, true, typeTuple, 0)
			}
		})), 128 << 20},
		"text":    {frames(false, again(func(e *encoder) { e.string(strings.Repeat("x", 500_000)) })), 6 * maxLog},
		"records": {frames(true, again(func(e *encoder) { e.integer(0) })), 128 << 20},
		"segments": {frames(true, func(e *encoder) {
			e.again(1, 1)
			e.b = appendHeader(e.b, false, typeBuffer, 2)
			e.integer(0)
		}), 128 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			c := chain{append(root, tt.frames...), 1 << 40}
			boundtest.Most(t, tt.most, func() {
				if _, err := Read(c, 0, c.size); !errors.Is(err, ErrFormat) {
					t.Error(err)
				}
			})
		})
	}
}

// zeros is a disk whose log leads to an extension that is not there.
type zeros struct{ sectors uint64 }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off == 0 {
		b := append(newExtension(nil, sectorSize), make([]byte, uuidSize+1)...)
		b = append(b, frameLink)
		b = appendVarint(b, 8)
		b = append(appendVarint(b, z.sectors), frameEnd)
		copy(p, b)
	}
	return len(p), nil
}

// An extension that claims to be large costs a sector.
func TestClaimedExtension(t *testing.T) {
	for _, sectors := range []uint64{1, 1024, maxExtension / sectorSize, maxLog / sectorSize, 1 << 62, 1<<64 - 1} {
		boundtest.Most(t, 256<<10, func() {
			if _, err := Read(zeros{sectors}, 0, 1<<50); !errors.Is(err, ErrFormat) {
				t.Errorf("%d: %v", sectors, err)
			}
		})
	}
}
