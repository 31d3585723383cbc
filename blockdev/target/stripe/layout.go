package stripe

import "github.com/google/uuid"

// set is what the superblocks of the legs of one set say alike. Sizes are in bytes.
type set struct {
	id    uuid.UUID
	legs  int
	chunk int64 // in a row on one leg
	leg   int64 // of the disk, on each leg: whole chunks
	block int   // of the disk
}

// size is the disk's size.
func (s *set) size() int64 { return s.leg * int64(s.legs) }

// piece returns where the disk's bytes from off on are, as many as are in a row of at most length.
func (s *set) piece(off, length int64) (leg int, at, n int64) {
	chunk, in := off/s.chunk, off%s.chunk
	legs := int64(s.legs)
	return int(chunk % legs), DataOffset + chunk/legs*s.chunk + in, min(length, s.chunk-in)
}

// share returns the part of a leg that holds bytes of a range of the disk, which is not empty; n is 0
// if there are none.
func (s *set) share(off, length int64, leg int) (at, n int64) {
	legs, end := int64(s.legs), off+length-1
	first, last := off/s.chunk, end/s.chunk
	mine := first + (int64(leg)-first%legs+legs)%legs // the first chunk of the leg from first on
	until := last - (last%legs-int64(leg)+legs)%legs  // the last one up to last
	if mine > last {
		return 0, 0
	}
	at, n = mine/legs*s.chunk, (until-mine)/legs*s.chunk+s.chunk
	if mine == first {
		at, n = at+off%s.chunk, n-off%s.chunk
	}
	if until == last {
		n -= s.chunk - 1 - end%s.chunk
	}
	return DataOffset + at, n
}
