package zone

import (
	"errors"
	"fmt"
)

// Condition of a zone; the numbers are those of enum blk_zone_cond.
type Condition uint8

// Conditions.
const (
	NotWP          Condition = 0x0 // conventional: there is no write pointer
	Empty          Condition = 0x1
	ImplicitlyOpen Condition = 0x2
	ExplicitlyOpen Condition = 0x3
	Closed         Condition = 0x4
	ReadOnly       Condition = 0xd
	Full           Condition = 0xe
	Offline        Condition = 0xf
)

var conditionNames = map[Condition]string{
	NotWP: "conventional", Empty: "empty", ImplicitlyOpen: "implicitly open", ExplicitlyOpen: "explicitly open",
	Closed: "closed", ReadOnly: "read-only", Full: "full", Offline: "offline",
}

func (c Condition) String() string {
	if s, known := conditionNames[c]; known {
		return s
	}
	return fmt.Sprintf("condition %#x", uint8(c))
}

func (c Condition) open() bool   { return c == ImplicitlyOpen || c == ExplicitlyOpen }
func (c Condition) active() bool { return c.open() || c == Closed }

// Word is the state of a zone:
//
//	 63            52 51         48 47            32 31                              0
//	+----------------+-------------+----------------+---------------------------------+
//	|       0        |  condition  |      last      |             written             |
//	+----------------+-------------+----------------+---------------------------------+
//
//	written    the end of what was written, in sectors of 512 bytes from the zone's start
//	last       the length of the write that moved the pointer there, in sectors; 0: it can't come again
//
// A conventional zone is 0.
type Word uint64

const (
	lastShift      = 32
	conditionShift = 48
	usedBits       = 52
	maxLast        = 1<<(conditionShift-lastShift) - 1 // sectors
)

// ErrWord is no state that a zone can have.
var ErrWord = errors.New("invalid state of a zone")

func pack(c Condition, written, last int64) Word {
	l := last / sectorSize
	if l > maxLast {
		l = 0 // no request is so long
	}
	return Word(c)<<conditionShift | Word(l)<<lastShift | Word(written/sectorSize)
}

// Condition is the zone's.
func (w Word) Condition() Condition { return Condition(w >> conditionShift & 0xf) }

// Written is the end of what was written, in bytes from the zone's start.
func (w Word) Written() int64 { return int64(w&(1<<lastShift-1)) * sectorSize }

// last is the length in bytes of the write that moved the pointer.
func (w Word) last() int64 { return int64(w>>lastShift&maxLast) * sectorSize }

// Check returns ErrWord unless w is a state of zone i.
func (g *Geometry) Check(i int, w Word) error {
	c, written := w.Condition(), w.Written()
	bad := w>>usedBits != 0 || written > g.ZoneSize || w.last() > written
	switch c {
	case NotWP:
		bad = bad || w != 0 || i >= g.Conventional
	case Empty:
		bad = bad || written != 0
	case ImplicitlyOpen, ExplicitlyOpen, Closed:
		bad = bad || written == g.ZoneSize
	case Full, ReadOnly, Offline:
	default:
		bad = true
	}
	if bad || c != NotWP && i < g.Conventional {
		return fmt.Errorf("%w: zone %d is %#x: %v, %d bytes", ErrWord, i, uint64(w), c, written)
	}
	return nil
}

// Fresh is the state of zone i of a new disk.
func (g *Geometry) Fresh(i int) Word {
	if i < g.Conventional {
		return 0
	}
	return pack(Empty, 0, 0)
}

// AllReadable is the state of a sequential zone whose pointer was lost: all of it can be read, and
// nothing written.
func (g *Geometry) AllReadable() Word { return pack(ReadOnly, g.ZoneSize, 0) }

// PowerCycled is the state of a zone after its disk was switched off: an open zone is closed, or
// empty if nothing was written.
func (w Word) PowerCycled() Word {
	switch {
	case !w.Condition().active():
		return w
	case w.Written() == 0:
		return pack(Empty, 0, 0)
	}
	return pack(Closed, w.Written(), w.last())
}
