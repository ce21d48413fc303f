package tfs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// content is the data of a regular file.
type content struct {
	fs      *FS
	size    int64
	extents []extent // with data, in order
}

// content reads where a regular file's data are. Several goroutines may do so
// at once.
func (f File) content() (*content, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	table := f.t.child(attrExtents)
	if table == nil {
		return nil, errors.New("not a regular file")
	}
	c := &content{fs: f.fs, size: f.Size()}
	var wrong error
	table.all(func(at string, v any) {
		x, err := readExtent(at, v)
		wrong = cmp.Or(wrong, err)
		if x.sectors > 0 {
			c.extents = append(c.extents, x)
		}
	})
	if wrong != nil {
		return nil, wrong
	}
	slices.SortFunc(c.extents, func(a, b extent) int { return cmp.Compare(a.at, b.at) })
	end, sectors := uint64(0), uint64(f.fs.size/sectorSize)
	for _, x := range c.extents {
		if x.at < end {
			return nil, fmt.Errorf("extents overlap: %w", ErrFormat)
		}
		if x.start > sectors || x.sectors > sectors-x.start {
			return nil, fmt.Errorf("an extent is beyond the end: %w", ErrFormat)
		}
		end = x.at + x.sectors
	}
	return c, nil
}

func readExtent(at string, v any) (x extent, err error) {
	t, ok := v.(*Tuple)
	if ok {
		x.at, err = strconv.ParseUint(at, 10, 53)
		ok = err == nil
	}
	var has [2]bool
	if ok {
		x.start, has[0] = t.integer(attrOffset)
		x.sectors, has[1] = t.integer(attrSectors)
	}
	if !ok || !has[0] || !has[1] || x.sectors >= 1<<53 {
		return x, fmt.Errorf("extent %.100q: %w", at, ErrFormat)
	}
	if t.Get(attrUninited) != nil {
		x.sectors = 0
	}
	return x, nil
}

// after returns the index of the first extent that ends behind a position.
func (c *content) after(pos int64) int {
	i, _ := slices.BinarySearchFunc(c.extents, pos, func(x extent, pos int64) int {
		return cmp.Compare(int64(x.at+x.sectors)*sectorSize, pos+1)
	})
	return i
}

// ReadAt implements tree.Content.
func (c *content) ReadAt(p []byte, pos int64) (int, error) {
	if pos < 0 {
		return 0, fmt.Errorf("offset %d: %w", pos, ErrFormat)
	}
	size := max(0, min(int64(len(p)), c.size-pos))
	all := p[:size]
	clear(all)
	for _, x := range c.extents[c.after(pos):] {
		at := int64(x.at) * sectorSize
		if at >= pos+size {
			break
		}
		skip := max(0, pos-at) // bytes of the extent before what is wanted
		part := all[max(0, at-pos):]
		part = part[:min(int64(len(part)), int64(x.sectors)*sectorSize-skip)]
		if n, err := c.fs.in.ReadAt(part, c.fs.base+int64(x.start)*sectorSize+skip); n < len(part) {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the disk ends in a file: %w", ErrFormat)
			}
			return 0, err
		}
	}
	if size < int64(len(p)) {
		return int(size), io.EOF
	}
	return int(size), nil
}

// NextData implements tree.Sparse.
func (c *content) NextData(pos, size int64) (start, end int64, err error) {
	i := c.after(pos)
	if i == len(c.extents) {
		return size, size, nil
	}
	x := c.extents[i]
	start = max(pos, int64(x.at)*sectorSize)
	return min(start, size), min(int64(x.at+x.sectors)*sectorSize, size), nil
}

// Close implements tree.Content.
func (*content) Close() error { return nil }
