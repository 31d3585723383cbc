//go:build linux

package uring

// UserData is the 64-bit value that the kernel copies from an entry to its completion. All users of
// a ring share one layout:
//
//	63      56 55      48 47            32 31            16 15             0
//	+---------+----------+----------------+----------------+---------------+
//	|  Kind   |  owner   |   generation   |     index      |      tag      |
//	+---------+----------+----------------+----------------+---------------+
//
// Kind tells the kinds of entries apart. Tag is the request's slot in its queue. Index numbers the
// secondaries of a fused request; generation counts the uses of its Fused, so that a completion of
// an earlier use is recognized. The owner byte is zero in this package's entries; the ring's owner
// may use it, and index and generation, for its own kinds.
type UserData uint64

// Kind is the top byte of UserData.
type Kind uint8

// The kinds that this package defines. A zeroed entry is KindNone, whose completion is to be
// ignored.
const (
	KindNone      Kind = iota
	KindSecondary             // a secondary, for Fused.Complete
	KindFetch                 // ublk FETCH_REQ or COMMIT_AND_FETCH_REQ of the tag
	KindPoll                  // a PollAdd, as a wake-up from other goroutines
	KindControl               // a control command
	KindFsync                 // a flush of the tag
	KindOwner     Kind = 0x80 // from here on: the ring owner's own
)

const (
	indexShift      = 16
	generationShift = 32
	ownerShift      = 48
	kindShift       = 56
)

// Pack returns a UserData whose owner byte is zero.
func Pack(kind Kind, generation, index, tag uint16) UserData {
	return UserData(kind)<<kindShift | UserData(generation)<<generationShift |
		UserData(index)<<indexShift | UserData(tag)
}

// WithOwner returns u with its owner byte set.
func (u UserData) WithOwner(b uint8) UserData {
	return u&^(0xff<<ownerShift) | UserData(b)<<ownerShift
}

// Kind returns the top byte.
func (u UserData) Kind() Kind { return Kind(u >> kindShift) }

// Owner returns the byte below the kind.
func (u UserData) Owner() uint8 { return uint8(u >> ownerShift) }

// Generation returns the number of the Fused's use that the entry belongs to.
func (u UserData) Generation() uint16 { return uint16(u >> generationShift) }

// Index returns the secondary's number.
func (u UserData) Index() uint16 { return uint16(u >> indexShift) }

// Tag returns the request's slot.
func (u UserData) Tag() uint16 { return uint16(u) }
