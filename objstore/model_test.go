package objstore

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"varve/objstore/internal/merkle"
)

// The model of a store: what each sector of each volume may hold, in plain memory. A sector is a
// string of SectorSize bytes; the empty string stands for zeroes.

var zeroSector = strings.Repeat("\x00", SectorSize)

func sectorOf(b []byte) string {
	if s := string(b); s != zeroSector {
		return s
	}
	return ""
}

// modelVolume is one volume.
type modelVolume struct {
	name      string
	size      int64
	blockSize int
	cur       []string         // what was last written and answered
	alts      map[int][]string // what a power cut may leave instead: the last flushed value, and what came since
	unsure    map[int][]string // what may be there instead, because a request was not answered or failed
	snaps     map[string]*modelSnap
	lost      []string // snapshots that may be there, of content that nobody knows

	// A request to make or delete it was not answered.
	maybeGone bool

	scratch bool           // a scratch volume
	rolling *modelRollback // was not answered

	limits   Limits   // as they were last answered
	limiting []Limits // that were set since, and not answered

	resizing int64  // the size in bytes of a resize that was not answered; 0: there is none
	renaming string // the new name, if that was not answered
	freed    string // a name that one of the snapshots had

	pair [2]string // exactly one of these snapshots is there, if they are named

	states        map[string]string // roots of past states, by name
	lostAutomatic [][]string        // what automatic snapshots hold that may be there, under names that nobody knows
}

type modelSnap struct {
	content   []string
	root      string // once known
	maybeGone bool   // a request to make or delete it was not answered
}

func newModelVolume(name string, size int64, blockSize int) *modelVolume {
	return &modelVolume{
		name: name, size: size, blockSize: blockSize, cur: make([]string, size/SectorSize),
		alts: map[int][]string{}, unsure: map[int][]string{}, snaps: map[string]*modelSnap{},
	}
}

func (v *modelVolume) clone() *modelVolume {
	c := *v
	c.cur, c.lost = slices.Clone(v.cur), slices.Clone(v.lost)
	c.states, c.lostAutomatic = maps.Clone(v.states), slices.Clone(v.lostAutomatic)
	c.limiting = slices.Clone(v.limiting)
	if v.rolling != nil {
		r := *v.rolling
		c.rolling = &r
	}
	c.alts, c.unsure, c.snaps = map[int][]string{}, map[int][]string{}, map[string]*modelSnap{}
	for i, list := range v.alts {
		c.alts[i] = slices.Clone(list)
	}
	for i, list := range v.unsure {
		c.unsure[i] = slices.Clone(list)
	}
	for name, sn := range v.snaps {
		s := *sn // what it holds does not change
		c.snaps[name] = &s
	}
	return &c
}

func addValue(m map[int][]string, i int, s string) {
	if !slices.Contains(m[i], s) {
		m[i] = append(m[i], s)
	}
}

// overlay gives the sectors that a write changes, as they will be.
func (v *modelVolume) overlay(off int64, p []byte) (first int, sectors []string) {
	first = int(off / SectorSize)
	last := int((off + int64(len(p)) - 1) / SectorSize)
	var b bytes.Buffer
	for i := first; i <= last; i++ {
		b.WriteString(v.sector(i))
	}
	copy(b.Bytes()[off-int64(first)*SectorSize:], p)
	for i := range last - first + 1 {
		sectors = append(sectors, sectorOf(b.Bytes()[i*SectorSize:(i+1)*SectorSize]))
	}
	return first, sectors
}

func (v *modelVolume) sector(i int) string {
	if v.cur[i] == "" {
		return zeroSector
	}
	return v.cur[i]
}

// set notes an answered write.
func (v *modelVolume) set(first int, sectors []string) {
	for i, s := range sectors {
		if v.cur[first+i] != s {
			addValue(v.alts, first+i, v.cur[first+i])
			v.cur[first+i] = s
		}
	}
}

// maybe notes a write that was not answered, or failed.
func (v *modelVolume) maybe(first int, sectors []string) {
	for i, s := range sectors {
		if v.cur[first+i] != s {
			addValue(v.unsure, first+i, s)
		}
	}
}

// flushed notes an answered flush.
func (v *modelVolume) flushed() { clear(v.alts) }

// check compares what was read from sector first on, and takes over what it could not know. After a
// power cut (cut) it may be any of alts; what is there from then on, stays.
func (v *modelVolume) check(first int, got []byte, cut bool) error {
	for i := 0; i*SectorSize < len(got); i++ {
		at, s := first+i, sectorOf(got[i*SectorSize:(i+1)*SectorSize])
		switch {
		case s == v.cur[at]:
		case slices.Contains(v.unsure[at], s), cut && slices.Contains(v.alts[at], s):
			addValue(v.alts, at, v.cur[at])
			v.cur[at] = s
		default:
			return fmt.Errorf("volume %s sector %d (byte %d) holds %s; want %s, or one of %s unanswered, %s unflushed (power cut: %v)",
				v.name, at, at*SectorSize, short(s), short(v.cur[at]), shorts(v.unsure[at]), shorts(v.alts[at]), cut)
		}
		for _, other := range v.unsure[at] { // it may be on the disk all the same
			if other != s {
				addValue(v.alts, at, other)
			}
		}
		delete(v.unsure, at)
	}
	return nil
}

func short(s string) string {
	if s == "" {
		return "zeroes"
	}
	h := blake3.Sum256([]byte(s))
	return fmt.Sprintf("%x(%x…)", h[:3], s[:8])
}

func shorts(list []string) string {
	var b strings.Builder
	for _, s := range list {
		b.WriteString(" " + short(s))
	}
	return "[" + strings.TrimSpace(b.String()) + "]"
}

// modelRoot computes a root from content alone, by the description of the format, not by the
// store's code.
func modelRoot(content []string, chunkSize int) string {
	per := chunkSize / SectorSize
	var level []merkle.Hash
	for i := 0; i < len(content); i += per {
		var b bytes.Buffer
		for _, s := range content[i:min(i+per, len(content))] {
			if s == "" {
				s = zeroSector
			}
			b.WriteString(s)
		}
		b.Write(make([]byte, chunkSize-b.Len()))
		if bytes.Count(b.Bytes(), []byte{0}) == b.Len() {
			level = append(level, merkle.Hash{})
		} else {
			level = append(level, blake3.Sum256(b.Bytes()))
		}
	}
	derive := func(kind byte, b []byte) merkle.Hash {
		h := blake3.NewDeriveKey("varve tree object v1")
		_, _ = h.Write([]byte{kind})
		_, _ = h.Write(b)
		return merkle.Hash(h.Sum(nil))
	}
	depth := 0
	for depth == 0 || len(level) > 1 {
		depth++
		var up []merkle.Hash
		for i := 0; i < len(level); i += 256 {
			var b []byte
			for _, h := range level[i:min(i+256, len(level))] {
				b = append(b, h[:]...)
			}
			for len(b) > 0 && merkle.Hash(b[len(b)-32:]).IsZero() {
				b = b[:len(b)-32]
			}
			if len(b) == 0 {
				up = append(up, merkle.Hash{})
			} else {
				up = append(up, derive(byte(16+depth), b))
			}
		}
		level = up
	}
	root := make([]byte, 64)
	copy(root, "varveRT\x00")
	le.PutUint32(root[8:], 1)
	le.PutUint32(root[12:], uint32(chunkSize))
	le.PutUint64(root[16:], uint64(len(content)*SectorSize))
	le.PutUint32(root[24:], uint32(depth))
	copy(root[32:], level[0][:])
	return derive(2, root).String()
}

// modelLogical counts the bytes of the chunks that are not zeroes.
func modelLogical(content []string, chunkSize int) int64 {
	per, n := chunkSize/SectorSize, int64(0)
	for i := 0; i < len(content); i += per {
		for _, s := range content[i:min(i+per, len(content))] {
			if s != "" {
				n += int64(chunkSize)
				break
			}
		}
	}
	return n
}
