package ext4

import (
	"encoding/binary"
)

// The journal is written by jbd2, big endian.
const (
	journalMagic = 0xc03b3998

	blockDescriptor = 1
	blockCommit     = 2
	blockSuperV1    = 3
	blockSuperV2    = 4
	blockRevoke     = 5

	journalIncompatRevoke = 0x1

	tagEscaped  = 0x1 // the block's own first word was the magic number
	tagSameUUID = 0x2
	tagDeleted  = 0x4
	tagLast     = 0x8

	// maxJournal bounds a journal in blocks: 256 MiB.
	maxJournal = 1 << 16
)

var be = binary.BigEndian

// replayed is a block of the journal that stands for one of the file system.
type replayed struct {
	block   uint64
	escaped bool
}

// journal is a journal being read.
type journal struct {
	fs    *FS
	place []uint64 // of each of its blocks on the disk
	first uint32   // of its blocks that are used round and round
	// revoked says of blocks that what the journal has of them up to a
	// transaction is void.
	revoked map[uint64]uint32
	buf     []byte
}

// use is what a pass through the journal is for: nothing, to find its end; to note
// what is void; to note what is to be found where.
type use struct {
	revoked map[uint64]uint32
	found   map[uint64]replayed
}

// loadJournal finds the newest contents of blocks that are in the journal.
func (fs *FS) loadJournal(inode uint32) error {
	j := &journal{fs: fs, revoked: map[uint64]uint32{}, buf: make([]byte, blockSize)}
	if err := j.locate(inode); err != nil {
		return err
	}
	start, sequence, err := j.super()
	if err != nil || start == 0 {
		fs.replay = map[uint64]replayed{}
		return err
	}
	found := map[uint64]replayed{}
	end, err := j.pass(start, sequence, sequence+maxJournal, use{})
	for _, u := range []use{{revoked: j.revoked}, {found: found}} {
		if err == nil {
			_, err = j.pass(start, sequence, end, u)
		}
	}
	fs.replay = found
	return err
}

// locate finds where the journal is.
func (j *journal) locate(inode uint32) error {
	i, err := j.fs.Inode(inode)
	if err != nil {
		return err
	}
	if i.Size > maxJournal*blockSize {
		return bad("%d bytes", i.Size)
	}
	err = i.Extents(func(e Extent) error {
		if e.Offset != int64(len(j.place))*blockSize || len(j.place)+int(e.Bytes/blockSize) > maxJournal {
			return bad("it has a hole, or is too large")
		}
		for at := int64(0); at < e.Bytes; at += blockSize {
			j.place = append(j.place, uint64(e.Disk+at)/blockSize)
		}
		return nil
	})
	if err == nil && len(j.place) < 2 {
		err = bad("%d blocks", len(j.place))
	}
	return err
}

// super reads the journal's superblock: the first block and transaction in use.
func (j *journal) super() (start, sequence uint32, err error) {
	if err := j.read(0); err != nil {
		return 0, 0, err
	}
	kind, features := be.Uint32(j.buf[4:]), be.Uint32(j.buf[0x28:])
	if be.Uint32(j.buf) != journalMagic || kind != blockSuperV1 && kind != blockSuperV2 || be.Uint32(j.buf[0xc:]) != blockSize {
		return 0, 0, bad("no superblock")
	}
	if kind == blockSuperV2 && features&^journalIncompatRevoke != 0 {
		return 0, 0, bad("features %#x", features)
	}
	blocks := be.Uint32(j.buf[0x10:])
	if blocks > uint32(len(j.place)) {
		return 0, 0, bad("%d blocks of %d", blocks, len(j.place))
	}
	j.place = j.place[:blocks]
	j.first, sequence, start = be.Uint32(j.buf[0x14:]), be.Uint32(j.buf[0x18:]), be.Uint32(j.buf[0x1c:])
	if j.first == 0 || j.first >= blocks || start != 0 && (start < j.first || start >= blocks) {
		return 0, 0, bad("it starts at %d, %d", j.first, start)
	}
	return start, sequence, nil
}

func (j *journal) read(n uint32) error { return j.fs.block(j.place[n], j.buf) }

func (j *journal) after(n uint32) uint32 {
	if n++; n == uint32(len(j.place)) {
		return j.first
	}
	return n
}

// pass goes through the transactions from one on up to, not including, another,
// and returns the first that is not complete.
func (j *journal) pass(at, sequence, end uint32, u use) (uint32, error) {
	for range j.place { // each block is come by once
		if sequence == end {
			break
		}
		if err := j.read(at); err != nil {
			return sequence, err
		}
		if be.Uint32(j.buf) != journalMagic || be.Uint32(j.buf[8:]) != sequence {
			break
		}
		switch kind := be.Uint32(j.buf[4:]); kind {
		case blockDescriptor:
			n, err := j.descriptor(at, sequence, u.found)
			if err != nil {
				return sequence, err
			}
			for range n {
				at = j.after(at)
			}
		case blockCommit:
			sequence++
		case blockRevoke:
			if err := j.revoke(sequence, u.revoked); err != nil {
				return sequence, err
			}
		default:
			return sequence, nil
		}
		at = j.after(at)
	}
	return sequence, nil
}

// descriptor reads what the blocks after it are, and returns their number.
func (j *journal) descriptor(at, sequence uint32, found map[uint64]replayed) (n int, err error) {
	const header, tag, uuid = 12, 8, 16
	for b := j.buf[header:]; len(b) >= tag; n++ {
		block, flags := uint64(be.Uint32(b)), be.Uint16(b[6:])
		if at = j.after(at); n >= len(j.place) {
			return 0, bad("a descriptor of too many blocks")
		}
		if found != nil && flags&tagDeleted == 0 {
			if until, ok := j.revoked[block]; !ok || int32(sequence-until) > 0 {
				found[block] = replayed{j.place[at], flags&tagEscaped != 0}
			}
		}
		b = b[tag:]
		if flags&tagSameUUID == 0 {
			b = b[min(uuid, len(b)):]
		}
		if flags&tagLast != 0 {
			return n + 1, nil
		}
	}
	return n, nil
}

// revoke reads a list of blocks of which what came before is void.
func (j *journal) revoke(sequence uint32, revoked map[uint64]uint32) error {
	const header, number = 16, 4
	used := be.Uint32(j.buf[12:])
	if used < header || used > blockSize {
		return bad("a damaged list of revoked blocks")
	}
	if revoked == nil {
		return nil
	}
	for b := j.buf[header:used]; len(b) >= number; b = b[number:] {
		block := uint64(be.Uint32(b))
		if until, ok := revoked[block]; !ok || int32(sequence-until) > 0 {
			revoked[block] = sequence
		}
	}
	return nil
}
