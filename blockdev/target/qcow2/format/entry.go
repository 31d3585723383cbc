package format

import (
	"encoding/binary"
	"math/bits"
)

// Copied is the bit of an L1 or L2 entry that says that what it names has refcount one.
const Copied = 1 << 63

const (
	compressed = 1 << 62
	zeroFlag   = 1 << 0
	offsetMask = (1<<56 - 1) &^ (1<<9 - 1)
)

// L1 returns the offset of the L2 table of an L1 entry, 0 if there is none, and whether it may be
// written in place.
func (g *Geometry) L1(e uint64, fileSize int64) (off int64, copied bool, err error) {
	at := e & offsetMask
	if e&^(Copied|offsetMask) != 0 || at == 0 && e != 0 {
		return 0, false, damaged("L1 entry %#x", e)
	}
	if at == 0 {
		return 0, false, nil
	}
	return int64(at), e&Copied != 0, g.CheckTable("L2 table", at, g.ClusterSize(), fileSize)
}

// Entry is an L2 entry: its first word, and the second of an extended one.
type Entry struct{ Word, Bitmap uint64 }

// Entry returns entry i of an L2 table.
func (g *Geometry) Entry(table []byte, i int64) Entry {
	b := table[i*int64(g.EntrySize()):]
	e := Entry{Word: binary.BigEndian.Uint64(b)}
	if g.Extended {
		e.Bitmap = binary.BigEndian.Uint64(b[8:])
	}
	return e
}

// PutEntry replaces entry i of an L2 table.
func (g *Geometry) PutEntry(table []byte, i int64, e Entry) {
	b := table[i*int64(g.EntrySize()):]
	binary.BigEndian.PutUint64(b, e.Word)
	if g.Extended {
		binary.BigEndian.PutUint64(b[8:], e.Bitmap)
	}
}

// Check refuses an entry that the specification does not allow, or whose cluster does not begin in a
// file of fileSize bytes.
func (g *Geometry) Check(e Entry, fileSize int64) error {
	if e.Compressed() {
		c := g.Packed(e)
		if e.Word&Copied != 0 || c.Off > maxOffset || c.Off >= fileSize {
			return damaged("compressed cluster at %d; the file ends at %d", c.Off, fileSize)
		}
		return nil
	}
	allowed := uint64(Copied | offsetMask)
	if g.Version == 3 && !g.Extended {
		allowed |= zeroFlag
	}
	at := e.Host()
	switch {
	case e.Word&^allowed != 0, at == 0 && e.Word&Copied != 0:
		return damaged("L2 entry %#x", e.Word)
	case uint32(e.Bitmap)&uint32(e.Bitmap>>32) != 0, at == 0 && uint32(e.Bitmap) != 0:
		return damaged("L2 entry %#x with subclusters %#x", e.Word, e.Bitmap)
	case at&(g.ClusterSize()-1) != 0 || at != 0 && at >= fileSize:
		return damaged("data cluster at %d; the file ends at %d, and clusters have %d bytes", at, fileSize, g.ClusterSize())
	}
	return nil
}

// Compressed reports whether the cluster is compressed.
func (e Entry) Compressed() bool { return e.Word&compressed != 0 }

// Host returns the offset of the host cluster, 0 if there is none. The cluster is not compressed.
func (e Entry) Host() int64 { return int64(e.Word & offsetMask) }

// InPlace reports whether the host cluster belongs to this entry alone.
func (e Entry) InPlace() bool { return e.Word&Copied != 0 }

// Packed is where a compressed cluster is.
type Packed struct {
	Off int64 // in the file
	Len int   // bytes, of which the last may belong to another one
}

// Packed returns where the compressed cluster of e is.
func (g *Geometry) Packed(e Entry) Packed {
	x := 62 - (g.ClusterBits - 8)
	off := e.Word & (1<<x - 1)
	sectors := e.Word&(compressed-1)>>x + 1
	return Packed{Off: int64(off), Len: int(sectors*512 - off&511)}
}

// State is what a grain reads as.
type State uint8

// States.
const (
	Unallocated State = iota // what the backing file has
	Zero
	Stored   // in the host cluster, at the same place
	Packaged // in a compressed cluster
)

// At returns the state of a cluster's grain, and of how many grains that follow it, itself included.
func (g *Geometry) At(e Entry, grain int) (State, int) {
	if e.Compressed() {
		return Packaged, g.Grains() - grain
	}
	if !g.Extended {
		switch {
		case e.Word&zeroFlag != 0:
			return Zero, 1
		case e.Host() != 0:
			return Stored, 1
		}
		return Unallocated, 1
	}
	stored, zero := uint32(e.Bitmap)>>grain, uint32(e.Bitmap>>32)>>grain
	run := func(set uint32) int { return min(bits.TrailingZeros32(^set), subclusters-grain) }
	switch {
	case stored&1 != 0:
		return Stored, run(stored)
	case zero&1 != 0:
		return Zero, run(zero)
	}
	return Unallocated, min(bits.TrailingZeros32(stored|zero), subclusters-grain)
}

// Grained is e with the grains from..to-1 in a state, Zero, Stored or Unallocated, and with the
// host cluster at host, owned by e alone; host 0: none. A version 2 image has no Zero.
func (g *Geometry) Grained(e Entry, from, to int, s State, host int64) Entry {
	n := Entry{Word: uint64(host)}
	if host != 0 {
		n.Word |= Copied
	}
	if !g.Extended {
		if s == Zero {
			n.Word |= zeroFlag
		}
		return n
	}
	if !e.Compressed() {
		n.Bitmap = e.Bitmap
	}
	mask := uint64(1)<<to - uint64(1)<<from
	n.Bitmap &^= mask | mask<<32
	switch s {
	case Stored:
		n.Bitmap |= mask
	case Zero:
		n.Bitmap |= mask << 32
	case Unallocated, Packaged: // neither bit
	}
	return n
}
