package tfs

import "io"

// logWriter writes a chain of extensions that lie one after the other from
// sector next on.
type logWriter struct {
	out    io.WriterAt
	base   int64 // of the file system on the disk, in bytes
	sector uint64
	b      []byte // the extension under construction
}

// newExtension begins an extension of this many bytes.
func newExtension(b []byte, size int) []byte {
	b = append(b[:0], magic...)
	b = appendVarint(b, Version)
	return appendVarint(b, uint64(size/sectorSize))
}

func newLogWriter(out io.WriterAt, base int64, sector uint64) *logWriter {
	return &logWriter{out: out, base: base, sector: sector, b: newExtension(make([]byte, 0, extensionSize), extensionSize)}
}

// appendLink ends an extension with a link to another.
func appendLink(b []byte, sector uint64) []byte {
	b = append(b, frameLink)
	b = appendVarint(b, sector)
	b = appendVarint(b, extensionSize/sectorSize)
	return append(b, frameEnd)
}

// record appends one record, in parts where it does not fit.
func (w *logWriter) record(r []byte) error {
	const head = 1 + 2*maxVarint
	for first := true; first || len(r) > 0; first = false {
		if len(w.b)+head+tailSize >= extensionSize {
			if err := w.flush(); err != nil {
				return err
			}
		}
		n := min(len(r), extensionSize-tailSize-head-len(w.b))
		w.b = appendFrame(w.b, r, n, first)
		r = r[n:]
	}
	return nil
}

// appendFrame appends the frame of the next n bytes of a record of which r is
// left.
func appendFrame(b, r []byte, n int, first bool) []byte {
	if first {
		b = append(b, frameRecord)
		b = appendVarint(b, uint64(len(r)))
	} else {
		b = append(b, framePart)
	}
	b = appendVarint(b, uint64(n))
	return append(b, r[:n]...)
}

// flush links the extension to the one that follows, writes it and begins that.
func (w *logWriter) flush() error {
	return w.flushTo(w.sector + extensionSize/sectorSize)
}

func (w *logWriter) flushTo(next uint64) error {
	if err := w.write(appendLink(w.b, next)); err != nil {
		return err
	}
	w.sector = next
	w.b = newExtension(w.b, extensionSize)
	return nil
}

// close writes the last extension, which ends the log.
func (w *logWriter) close() error { return w.write(append(w.b, frameEnd)) }

func (w *logWriter) write(b []byte) error {
	_, err := w.out.WriteAt(b, w.base+int64(w.sector)*sectorSize)
	return err
}
