package zoned

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/google/uuid"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/superblock"
	"varve/blockdev/target/zoned/zone"
)

// The write pointers are in pages of 4096 bytes, each in two slots side by side, which are written
// in turns. The valid one with the higher sequence counts, so that a write that is torn leaves the
// page before it; pages do not depend on each other. A page, little endian:
//
//	0        8         12         16     32     36     40         48                     4096
//	+--------+---------+----------+------+------+------+----------+-------+------- ... ---+
//	| magic  | version | checksum | UUID | page |   0  | sequence | zones of the page     |
//	+--------+---------+----------+------+------+------+----------+-------+------- ... ---+
//
//	checksum  CRC-32C of all 4096 bytes with a checksum of 0
//	UUID      of the superblock
//	page      its number, from 0; page n begins at byte 64 KiB + n * 8 KiB, with slot 0
//	zones     a zone.Word for each of 506 zones, zeroes after the last of the disk
const (
	pagesAt    = 64 << 10
	pageSize   = 4096
	pageSlots  = 2
	sequenceAt = 40
	wordsAt    = 48

	zonesPerPage = (pageSize - wordsAt) / 8

	dataAlign = 1 << 20
)

var pageKind = superblock.Format{Magic: "VarveZPt", Version: 1, None: fmt.Errorf("%w: no page of write pointers", superblock.ErrDamaged)}

// pages is how many pages the pointers of a disk take.
func pages(zones int) int { return (zones + zonesPerPage - 1) / zonesPerPage }

// dataOffset is where zone 0 begins in the file, in bytes.
func dataOffset(zones int) int64 {
	return (pagesAt + int64(pages(zones))*pageSlots*pageSize + dataAlign - 1) &^ (dataAlign - 1)
}

// pointers is the write pointers in a file. Its methods may block, and are called by one goroutine
// at a time.
type pointers struct {
	file    *backing.File
	id      uuid.UUID
	durable []zone.Word // what the file says
	next    []uint64    // the sequence of each page's next write; the slot is its lowest bit
	buf     []byte
}

func newPointers(f *backing.File, s *super) *pointers {
	n := s.geo.Zones()
	return &pointers{file: f, id: s.id, durable: make([]zone.Word, n), next: make([]uint64, pages(n)), buf: backing.Memory(pageSize)}
}

// zonesOf returns the part of words that is in a page.
func zonesOf(words []zone.Word, page int) []zone.Word {
	return words[page*zonesPerPage : min((page+1)*zonesPerPage, len(words))]
}

// update writes the pages that differ from words, and syncs the file if there are any. After an
// error nothing is known of the pages.
func (t *pointers) update(words []zone.Word) error {
	wrote := false
	for i := range t.next {
		from, to := zonesOf(words, i), zonesOf(t.durable, i)
		if t.next[i] != 0 && slices.Equal(from, to) {
			continue
		}
		wrote = true
		encodePage(t.buf, t.id, i, t.next[i], from)
		if err := t.file.WriteAt(t.buf, slotOffset(i, t.next[i])); err != nil {
			return err
		}
		t.next[i]++
		copy(to, from)
	}
	if !wrote {
		return nil
	}
	return t.file.Sync()
}

// slotOffset is where the sequence of a page is in the file.
func slotOffset(page int, sequence uint64) int64 {
	return pagesAt + (int64(page)*pageSlots+int64(sequence%pageSlots))*pageSize
}

// load reads the pointers. It returns the numbers of the pages of which no slot is whole: what can
// be said of their zones is that all of them may be read.
func (t *pointers) load(g *zone.Geometry) (lost []int, err error) {
	p := backing.Memory(pageSlots * pageSize)
	words := make([]zone.Word, zonesPerPage)
	for i := range t.next {
		if err := t.file.ReadAt(p, slotOffset(i, 0)); err != nil {
			return nil, err
		}
		whole, to := false, zonesOf(t.durable, i)
		for slot := range pageSlots {
			sequence, err := decodePage(p[slot*pageSize:(slot+1)*pageSize], t.id, i, words[:len(to)], g)
			if err == nil && sequence%pageSlots == uint64(slot) && (!whole || sequence >= t.next[i]) {
				whole, t.next[i] = true, sequence+1
				copy(to, words)
			}
		}
		if whole {
			continue
		}
		lost = append(lost, i)
		for k := range to {
			if n := i*zonesPerPage + k; n < g.Conventional {
				to[k] = g.Fresh(n)
			} else {
				to[k] = g.AllReadable()
			}
		}
	}
	return lost, nil
}

// encodePage fills in a page of pointers.
func encodePage(p []byte, id uuid.UUID, page int, sequence uint64, words []zone.Word) {
	pageKind.Encode(p, superblock.Head{ID: id, Legs: uint32(page)})
	le := binary.LittleEndian
	le.PutUint64(p[sequenceAt:], sequence)
	for i, w := range words {
		le.PutUint64(p[wordsAt+8*i:], uint64(w))
	}
	superblock.Seal(p)
}

// decodePage reads a page into words, which has as many as the page has zones.
func decodePage(p []byte, id uuid.UUID, page int, words []zone.Word, g *zone.Geometry) (sequence uint64, err error) {
	head, err := pageKind.Decode(p)
	if err != nil {
		return 0, err
	}
	if head.ID != id || head.Legs != uint32(page) || head.Index != 0 {
		return 0, fmt.Errorf("%w: it is page %d of %v, not page %d of %v", superblock.ErrDamaged, head.Legs, head.ID, page, id)
	}
	le := binary.LittleEndian
	for i := range words {
		words[i] = zone.Word(le.Uint64(p[wordsAt+8*i:]))
		if err := g.Check(page*zonesPerPage+i, words[i]); err != nil {
			return 0, fmt.Errorf("%w: %w", superblock.ErrDamaged, err)
		}
	}
	for _, b := range p[wordsAt+8*len(words) : pageSize] {
		if b != 0 {
			return 0, fmt.Errorf("%w: bytes after the last zone are not zero", superblock.ErrDamaged)
		}
	}
	return le.Uint64(p[sequenceAt:]), nil
}

// checksumOf is CRC-32C, as of superblocks.
func checksumOf(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }
