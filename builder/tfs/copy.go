package tfs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

const (
	// copyBuffer is how much one worker reads at once: some small files, or a
	// part of a large one.
	copyBuffer = 1 << 20
	// maxParts is how many small files that can be: with what is between them
	// they go into one call of pwritev.
	maxParts   = 400
	maxWorkers = 4
	// holeSize is the granularity of holes. What is a hole follows from what is
	// in a file alone: the same file gives the same bytes, however sparse it is
	// where it comes from.
	holeSize = 64 << 10
)

// copier copies the data of files behind each other. Workers read and write
// side by side; only who comes where is decided in turn.
type copier struct {
	out    *os.File
	base   int64
	cancel context.CancelCauseFunc
	jobs   chan *job
	last   chan place // where the job that was made last ends
}

// place is how far the data go.
type place struct {
	end  int64 // in bytes from base
	file *node // that ends there, at pos; nil where the next data begin anew
	pos  int64
}

// job is what one worker does at once.
type job struct {
	parts      []part
	size       int64
	turn, next chan place
}

// part is a part of a file, or all of it.
type part struct {
	n         *node
	pos, size int64
	open      *sharedContent // nil for a file that nobody else reads
}

// sharedContent is an open file that several jobs read.
type sharedContent struct {
	tree.Content
	users atomic.Int32
}

func (s *sharedContent) done() error {
	if s.users.Add(-1) > 0 {
		return nil
	}
	return s.Close()
}

// copyData writes the data of files at base of f from offset start on, notes in
// the nodes where they are, and returns where they end.
func copyData(ctx context.Context, f *os.File, base, start int64, root *tree.Node, nodes []*node) (end int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &copier{out: f, base: base, cancel: cancel, jobs: make(chan *job), last: make(chan place, 1)}
	c.last <- place{end: start}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), maxWorkers) {
		wg.Go(func() { c.work(ctx, root) })
	}
	err = c.dispatch(ctx, root, nodes)
	close(c.jobs)
	wg.Wait()
	if err = cmp.Or(context.Cause(ctx), err); err != nil {
		return 0, err
	}
	return (<-c.last).end, nil
}

// dispatch cuts files into jobs.
func (c *copier) dispatch(ctx context.Context, root *tree.Node, nodes []*node) error {
	j := &job{}
	for _, n := range nodes {
		if !n.IsFile() || n.Size == 0 {
			continue
		}
		if n.Size < copyBuffer {
			if j.size+n.Size > copyBuffer || len(j.parts) == maxParts {
				if err := c.send(ctx, j); err != nil {
					return err
				}
				j = &job{}
			}
			j.parts = append(j.parts, part{n: n, size: n.Size})
			j.size += n.Size
			continue
		}
		if err := c.send(ctx, j); err != nil {
			return err
		}
		j = &job{}
		if err := c.large(ctx, n); err != nil {
			return fmt.Errorf("copy %.300q: %w", root.PathOf(n.Node), err)
		}
	}
	return c.send(ctx, j)
}

// large cuts a file into jobs, over its holes.
func (c *copier) large(ctx context.Context, n *node) (err error) {
	in, err := n.Data.Open()
	if err != nil {
		return err
	}
	shared := &sharedContent{Content: in}
	shared.users.Store(1)
	defer func() { err = errors.Join(err, shared.done()) }()
	sparse, _ := in.(tree.Sparse)
	for pos, dataEnd := int64(0), int64(0); pos < n.Size; {
		if sparse != nil && pos >= dataEnd {
			start, end, err := sparse.NextData(pos, n.Size)
			if err != nil {
				return err
			}
			if start >= n.Size {
				break
			}
			pos, dataEnd = max(pos, start/holeSize*holeSize), end
		}
		size := min(copyBuffer, n.Size-pos)
		shared.users.Add(1)
		if err := c.send(ctx, &job{parts: []part{{n, pos, size, shared}}, size: size}); err != nil {
			return errors.Join(err, shared.done())
		}
		pos += size
	}
	return nil
}

// send gives a job to a worker.
func (c *copier) send(ctx context.Context, j *job) error {
	if len(j.parts) == 0 {
		return nil
	}
	j.turn, j.next = c.last, make(chan place, 1)
	select {
	case c.jobs <- j:
		c.last = j.next
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// work does jobs. The first error ends the others.
func (c *copier) work(ctx context.Context, root *tree.Node) {
	w := worker{copier: c, buf: make([]byte, copyBuffer)}
	for j := range c.jobs {
		if err := w.do(ctx, root, j); err != nil {
			c.cancel(err)
		}
	}
}

type worker struct {
	*copier
	buf  []byte
	runs []run
	out  [][]byte
}

// run is data without a hole.
type run struct {
	n    *node
	pos  int64
	data []byte
}

func (w *worker) do(ctx context.Context, root *tree.Node, j *job) error {
	w.runs = w.runs[:0]
	buf := w.buf
	var failed error
	for _, p := range j.parts {
		if failed == nil && ctx.Err() == nil {
			if failed = p.read(buf[:p.size]); failed != nil {
				failed = fmt.Errorf("copy %.300q: %w", root.PathOf(p.n.Node), failed)
			}
			w.runs = appendRuns(w.runs, p, buf[:p.size])
			buf = buf[p.size:]
		}
		if p.open != nil {
			failed = errors.Join(failed, p.open.done())
		}
	}
	if failed != nil {
		return failed
	}
	select {
	case at := <-j.turn:
		out, start := w.place(&at)
		j.next <- at
		w.out = out
		return w.write(start)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// read fills b with a part of a file.
func (p part) read(b []byte) (err error) {
	if p.open != nil {
		return tree.ReadFull(p.open, b, p.pos)
	}
	in, err := p.n.Data.Open()
	if err != nil {
		return err
	}
	return errors.Join(tree.ReadFull(in, b, p.pos), in.Close())
}

// appendRuns appends the runs of a part that was read.
func appendRuns(list []run, p part, data []byte) []run {
	if p.n.Size < holeSize {
		return append(list, run{p.n, p.pos, data})
	}
	start := 0
	for at := 0; at < len(data); at += holeSize {
		unit := data[at:min(at+holeSize, len(data))]
		if !isZero(unit) {
			continue
		}
		if start < at {
			list = append(list, run{p.n, p.pos + int64(start), data[start:at]})
		}
		start = at + len(unit)
	}
	if start < len(data) {
		list = append(list, run{p.n, p.pos + int64(start), data[start:]})
	}
	return list
}

var zeroPage [pageSize]byte

// isZero stops at the first page with data.
func isZero(b []byte) bool {
	for len(b) >= pageSize {
		if !bytes.Equal(b[:pageSize], zeroPage[:]) {
			return false
		}
		b = b[pageSize:]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}

// place decides where the runs are, and returns what is to be written and
// where.
func (w *worker) place(at *place) (out [][]byte, start int64) {
	out = w.out[:0]
	start = -1
	for _, r := range w.runs {
		for len(r.data) > 0 {
			n, gap := at.next(r)
			if start < 0 {
				start = at.end + gap
			} else if gap > 0 {
				out = append(out, zeroPage[:gap])
			}
			out = append(out, r.data[:n])
			*at = place{at.end + gap + n, r.n, r.pos + n}
			r.pos, r.data = r.pos+n, r.data[n:]
		}
	}
	return out, start
}

// next notes where the next n bytes of a run are, gap bytes behind what is
// there: they make the last extent of the file longer, if they go on where that
// ends, or begin another.
func (p *place) next(r run) (n, gap int64) {
	n = int64(len(r.data))
	if p.file == r.n && p.pos == r.pos && r.pos%holeSize == 0 {
		x := &r.n.extents[len(r.n.extents)-1]
		if room := maxExtent - int64(x.sectors)*sectorSize; room > 0 {
			n = min(n, room)
			x.sectors += sectorsOf(n)
			return n, 0
		}
	}
	n = min(n, maxExtent)
	to := roundUp(p.end, sectorSize)
	if n >= pageSize {
		to = roundUp(p.end, pageSize)
	}
	r.n.extents = append(r.n.extents, extent{uint64(r.pos / sectorSize), uint64(to / sectorSize), sectorsOf(n)})
	return n, to - p.end
}

func sectorsOf(bytes int64) uint64 { return uint64(roundUp(bytes, sectorSize) / sectorSize) }

// write writes w.out from an offset on.
func (w *worker) write(start int64) error {
	for out, at := w.out, w.base+start; len(out) > 0; {
		n, err := unix.Pwritev(int(w.copier.out.Fd()), out, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "write", Path: w.copier.out.Name(), Err: err}
		}
		at += int64(n)
		for len(out) > 0 && n >= len(out[0]) {
			n -= len(out[0])
			out = out[1:]
		}
		if n > 0 {
			out[0] = out[0][n:]
		}
	}
	return nil
}
