// Package logwrites reads the log of the device mapper's log-writes target and makes the disks that
// a power cut could have left.
//
// The target (drivers/md/dm-log-writes.c, Linux 7.3) sits on a disk and copies every write to a
// second device. What it logs is durability, not time: a write enters the log when a flush that
// began after its completion has completed, or at its own completion if it is FUA; a mark of the
// user's enters it at once. So what stands before a mark was durable when the mark was set.
//
//	w1 done, w2 done, FLUSH begins, FUA f done, w3 done, FLUSH done     the log:  f w1 w2 FLUSH ... w3 ...
//
// Between two barriers (flush, FUA) lies a batch: writes that were all in the disk's volatile cache
// at one moment, just before the flush was done. A cut at that moment leaves any subset of the
// batch, each write whole, missing or torn between two sectors, over everything that comes before
// the batch. A Cut is one such subset. A write behind a FUA write may have been on the disk before
// it; the log does not tell, and so no Cut assumes it.
//
// The log, all integers little endian, in sectors of the disk's logical block size:
//
//	sector 0    super: magic u64, version u64, entries u64, sector size u32
//	then each   one sector: sector u64, sectors u64, flags u64, data length u64; a mark's text
//	            the data of a write; of a discard there is none
package logwrites

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	magic       = 0x6a736677736872
	version     = 1
	entryHeader = 32

	flagFlush   = 1 << 0
	flagFUA     = 1 << 1
	flagDiscard = 1 << 2
	flagMark    = 1 << 3
	flagMeta    = 1 << 4
)

// SectorSize in bytes is the unit of offsets and lengths here, and the unit that a power cut
// doesn't tear.
const SectorSize = 512

// maxWrite bounds what one entry may hold: a bio has fewer than 4 GiB, and the block layer makes
// them far smaller.
const maxWrite = 1 << 28

var le = binary.LittleEndian

// ErrFormat is the error for a file that is no log of the target, or a damaged one.
var ErrFormat = errors.New("not a log of dm-log-writes")

// Entry is one entry of a log.
type Entry struct {
	Off, Len int64 // bytes of the disk
	Flush    bool  // all that stands before it is durable
	FUA      bool  // itself durable
	Discard  bool  // without data: it reads as zeroes afterwards, here
	Mark     string

	data int64 // offset of the data in the log
}

// barrier reports an entry that no later one can be durable without.
func (e *Entry) barrier() bool { return e.Flush || e.FUA || e.Mark != "" }

// Changes reports whether the entry changes the disk.
func (e *Entry) Changes() bool { return e.Mark == "" && e.Len > 0 }

// Log is a log with its entries in memory; the data stays where it is.
type Log struct {
	Entries []Entry
	r       io.ReaderAt
}

// Read reads a log's entries.
func Read(r io.ReaderAt) (*Log, error) {
	var b [4096]byte
	if _, err := r.ReadAt(b[:SectorSize], 0); err != nil {
		return nil, fmt.Errorf("read super: %w", err)
	}
	size := int64(le.Uint32(b[24:]))
	switch {
	case le.Uint64(b[:]) != magic:
		return nil, fmt.Errorf("%w: magic %#x, want %#x", ErrFormat, le.Uint64(b[:]), uint64(magic))
	case le.Uint64(b[8:]) != version:
		return nil, fmt.Errorf("%w: version %d, want %d", ErrFormat, le.Uint64(b[8:]), version)
	case size < SectorSize || size > int64(len(b)) || size&(size-1) != 0:
		return nil, fmt.Errorf("%w: sectors of %d bytes, want 512 to 4096", ErrFormat, size)
	}
	l, at := &Log{r: r}, size
	for n := le.Uint64(b[16:]); n > 0; n-- {
		if _, err := r.ReadAt(b[:size], at); err != nil {
			return nil, fmt.Errorf("read entry %d at byte %d: %w", len(l.Entries), at, err)
		}
		e, err := decode(b[:size], size)
		if err != nil {
			return nil, fmt.Errorf("entry %d at byte %d: %w", len(l.Entries), at, err)
		}
		at += size
		e.data = at
		if !e.Discard {
			at += e.Len
		}
		l.Entries = append(l.Entries, e)
	}
	return l, nil
}

func decode(b []byte, size int64) (Entry, error) {
	sector, sectors := le.Uint64(b), le.Uint64(b[8:])
	flags, length := le.Uint64(b[16:]), le.Uint64(b[24:])
	e := Entry{
		Flush: flags&flagFlush != 0, FUA: flags&flagFUA != 0, Discard: flags&flagDiscard != 0,
	}
	const most = 1 << 53 // so that nothing below overflows
	switch {
	case flags&^uint64(flagFlush|flagFUA|flagDiscard|flagMark|flagMeta) != 0:
		return e, fmt.Errorf("%w: flags %#x", ErrFormat, flags)
	case flags&flagMark != 0 && (sectors != 0 || length == 0 || length > uint64(size)-entryHeader):
		return e, fmt.Errorf("%w: a mark of %d sectors and %d bytes", ErrFormat, sectors, length)
	case sector > most/SectorSize || sectors > most/SectorSize || !e.Discard && sectors > maxWrite/uint64(size):
		return e, fmt.Errorf("%w: %d sectors at sector %d", ErrFormat, sectors, sector)
	case sectors == 0 && !e.Flush && flags&flagMark == 0:
		return e, fmt.Errorf("%w: an entry that does nothing", ErrFormat)
	}
	e.Off, e.Len = int64(sector)*size, int64(sectors)*size
	if flags&flagMark != 0 {
		e.Mark = string(bytes.TrimRight(b[entryHeader:entryHeader+length], "\x00"))
		if e.Mark == "" {
			return e, fmt.Errorf("%w: an empty mark", ErrFormat)
		}
	}
	return e, nil
}

// Data reads what entry i has written. The result is valid until the next call with the same
// buffer.
func (l *Log) Data(i int, buf []byte) ([]byte, error) {
	e := &l.Entries[i]
	if !e.Changes() || e.Discard {
		return nil, nil
	}
	if int64(cap(buf)) < e.Len {
		buf = make([]byte, e.Len)
	}
	buf = buf[:e.Len]
	if _, err := l.r.ReadAt(buf, e.data); err != nil {
		return nil, fmt.Errorf("read the data of entry %d at byte %d: %w", i, e.data, err)
	}
	return buf, nil
}

// Disk is what a log is replayed to.
type Disk interface {
	io.WriterAt
	// Zero makes a range read as zeroes.
	Zero(off, length int64) error
}

// Apply does the entries [from, to) whole, in order.
func (l *Log) Apply(d Disk, from, to int) error {
	var buf []byte
	for i := from; i < to; i++ {
		if err := l.apply(d, i, &buf, nil); err != nil {
			return err
		}
	}
	return nil
}

// apply does those sectors of entry i that keep says; nil: all.
func (l *Log) apply(d Disk, i int, buf *[]byte, keep func(sector int) bool) error {
	e := &l.Entries[i]
	if !e.Changes() {
		return nil
	}
	data, err := l.Data(i, *buf)
	if err != nil {
		return err
	}
	if data != nil {
		*buf = data
	}
	do := func(from, to int64) error {
		if e.Discard {
			return d.Zero(e.Off+from, to-from)
		}
		_, err := d.WriteAt(data[from:to], e.Off+from)
		return err
	}
	if keep == nil {
		return do(0, e.Len)
	}
	for from := int64(0); from < e.Len; {
		to := from + SectorSize
		if !keep(int(from / SectorSize)) {
			from = to
			continue
		}
		for to < e.Len && keep(int(to/SectorSize)) {
			to += SectorSize
		}
		if err := do(from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}
