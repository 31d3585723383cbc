package segment

import (
	"errors"
	"fmt"
	"sort"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// TrailerSize is the length of a footer's trailer in bytes.
const TrailerSize = 64

const trailerMagic = "varveFTR"

// maxFooter bounds the length of a footer, in bytes: more than a segment of the largest capacity
// can need.
const maxFooter = 1 << 32

// footerLength returns the length in bytes of a footer with that many objects: whole blocks.
func footerLength(objects int) int64 {
	return disk.RoundUp(int64(objects)*ObjectSize+TrailerSize, disk.BlockSize)
}

// EncodeFooter returns the footer of a segment with these objects, which are in order of block: the
// encoded objects, zeroes, and in the last 64 bytes the trailer:
//
//	 0  magic "varveFTR"
//	 8  version u32
//	12  segment ID u32
//	16  objects u32
//	20  CRC-32C of the objects u32
//	24  chunk bytes u64
//	32  other objects' bytes u64
//	40  zeroes
//	60  CRC-32C of bytes 0 to 59
func EncodeFooter(id uint32, objs []Object) []byte { return encodeFooter(id, objs, 0) }

// encodeFooter is EncodeFooter for a list that was shortened so many times.
func encodeFooter(id uint32, objs []Object, shortenings int) []byte {
	var chunks, others int64
	for i := range objs {
		if objs[i].Kind == merkle.KindChunk {
			chunks += int64(objs[i].Length)
		} else {
			others += int64(objs[i].Length)
		}
	}
	all := EncodeObjects(objs)
	markShortenings(all, shortenings)
	b := make([]byte, footerLength(len(objs)))
	copy(b, all)
	t := b[len(b)-TrailerSize:]
	copy(t, trailerMagic)
	le.PutUint32(t[8:], disk.Version)
	le.PutUint32(t[12:], id)
	le.PutUint32(t[16:], uint32(len(objs)))
	le.PutUint32(t[20:], disk.Checksum(all))
	le.PutUint64(t[24:], uint64(chunks))
	le.PutUint64(t[32:], uint64(others))
	le.PutUint32(t[60:], disk.Checksum(t[:60]))
	return b
}

// trailer is the decoded trailer of a footer.
type trailer struct {
	objects int
	sum     uint32 // of the encoded objects
	chunks  int64  // bytes of chunks
	others  int64  // bytes of other objects
}

// decodeTrailer decodes the trailer of a footer of segment id that is length bytes long.
func decodeTrailer(t []byte, id uint32, length int64) (trailer, error) {
	d := trailer{int(le.Uint32(t[16:])), le.Uint32(t[20:]), int64(le.Uint64(t[24:])), int64(le.Uint64(t[32:]))}
	switch {
	case string(t[:8]) != trailerMagic:
		return trailer{}, errors.New("no trailer magic")
	case disk.Checksum(t[:60]) != le.Uint32(t[60:]):
		return trailer{}, errors.New("checksum of the trailer")
	case le.Uint32(t[8:]) != disk.Version:
		return trailer{}, fmt.Errorf("%w: trailer version %d", disk.ErrVersion, le.Uint32(t[8:]))
	case le.Uint32(t[12:]) != id:
		return trailer{}, fmt.Errorf("it is of segment %08x", le.Uint32(t[12:]))
	case int64(d.objects)*ObjectSize+TrailerSize > length:
		return trailer{}, fmt.Errorf("%d objects in a footer of %d bytes", d.objects, length)
	}
	return d, nil
}

// footerHint returns the length of the footer that a trailer belongs to, by its count of objects
// alone, which may be wrong.
func footerHint(t []byte) int64 { return footerLength(int(le.Uint32(t[16:]))) }

// decodeFooter checks a footer of segment id and returns its objects, still encoded.
func decodeFooter(b []byte, id uint32) (Entries, error) {
	if len(b) < TrailerSize {
		return nil, fmt.Errorf("footer of %d bytes", len(b))
	}
	t, err := decodeTrailer(b[len(b)-TrailerSize:], id, int64(len(b)))
	if err != nil {
		return nil, err
	}
	all := b[:t.objects*ObjectSize]
	if got := disk.Checksum(all); got != t.sum {
		return nil, fmt.Errorf("checksum %08x, want %08x", got, t.sum)
	}
	return all, nil
}

// Entries are the encoded objects of a footer, in order of block. They stay encoded, as most uses
// need only the hash.
type Entries []byte

// Len returns how many objects there are.
func (e Entries) Len() int { return len(e) / ObjectSize }

// Hash returns the hash of object i.
func (e Entries) Hash(i int) merkle.Hash {
	return merkle.Hash(e[i*ObjectSize : i*ObjectSize+merkle.HashSize])
}

// At decodes object i.
func (e Entries) At(i int) (Object, error) { return decodeObject(e[i*ObjectSize : (i+1)*ObjectSize]) }

// Find returns the object at a block.
func (e Entries) Find(block uint32) (Object, bool) {
	i := sort.Search(e.Len(), func(i int) bool { return le.Uint32(e[i*ObjectSize+32:]) >= block })
	if i == e.Len() {
		return Object{}, false
	}
	o, err := e.At(i)
	return o, err == nil && o.Block == block
}
