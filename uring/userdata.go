//go:build linux

package uring

// UserData is the 64-bit value that the kernel copies from an entry to its completion. All users of
// a ring share one layout:
//
//	63      56 55      48 47            32 31            16 15             0
//	+---------+----------+----------------+----------------+---------------+
//	|  Kind   |    0     |   generation   |     index      |      tag      |
//	+---------+----------+----------------+----------------+---------------+
//
// Kind tells the kinds of entries apart. Tag is the request's slot in its queue. Index numbers the
// secondaries of a fused request; generation counts the uses of its Fused, so that a completion of
// an earlier use is recognized. The ring's owner may use index and generation for its own kinds.
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
	kindShift       = 56
)

// Pack returns a UserData.
func Pack(kind Kind, generation, index, tag uint16) UserData {
	return UserData(kind)<<kindShift | UserData(generation)<<generationShift |
		UserData(index)<<indexShift | UserData(tag)
}

// Kind returns the top byte.
func (u UserData) Kind() Kind { return Kind(u >> kindShift) }

// Generation returns the number of the Fused's use that the entry belongs to.
func (u UserData) Generation() uint16 { return uint16(u >> generationShift) }

// Index returns the secondary's number.
func (u UserData) Index() uint16 { return uint16(u >> indexShift) }

// Tag returns the request's slot.
func (u UserData) Tag() uint16 { return uint16(u) }
