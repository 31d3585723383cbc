package edges

import "math/bits"

const (
	shardBits = 8
	shards    = 1 << shardBits
	slotBytes = 9   // of a slot: a key and a count
	overBytes = 40  // about what an entry of over takes
	counted   = 254 // the largest count that a slot holds
)

// table holds counts by key, a few bits more than the keys themselves. It is a hash table with
// linear probing, in shards, so that growing copies a 256th of it. Keys are uniformly distributed.
// The zero table is empty.
type table struct {
	shard [shards]shard
	n     int               // keys
	slots int               // of all shards
	over  map[uint64]uint32 // counts above counted
}

// shard is a part of a table, for the keys with the same upper bits.
type shard struct {
	keys   []uint64
	counts []uint8 // 0: the slot is free; above counted: see table.over
	n      int
}

// bytes returns what the table takes in memory.
func (t *table) bytes() int64 { return int64(t.slots)*slotBytes + int64(len(t.over))*overBytes }

func (t *table) of(key uint64) *shard { return &t.shard[key>>(64-shardBits)] }

// home is the slot at which the search for a key begins.
func (s *shard) home(key uint64) int {
	hi, _ := bits.Mul64(key<<shardBits, uint64(len(s.keys)))
	return int(hi)
}

// find returns the slot of a key, or the free one in which it belongs.
func (s *shard) find(key uint64) (i int, ok bool) {
	if len(s.keys) == 0 {
		return 0, false
	}
	for i = s.home(key); s.counts[i] != 0; {
		if s.keys[i] == key {
			return i, true
		}
		if i++; i == len(s.keys) {
			i = 0
		}
	}
	return i, false
}

// get returns the count of a key.
func (t *table) get(key uint64) uint32 {
	s := t.of(key)
	i, ok := s.find(key)
	switch {
	case !ok:
		return 0
	case s.counts[i] > counted:
		return t.over[key]
	}
	return uint32(s.counts[i])
}

// set sets the count of a key; 0 removes it.
func (t *table) set(key uint64, count uint32) {
	s := t.of(key)
	i, ok := s.find(key)
	if ok && s.counts[i] > counted {
		delete(t.over, key)
	}
	switch {
	case count == 0 && ok:
		s.remove(i)
		t.n--
		return
	case count == 0:
		return
	case !ok:
		if (s.n+1)*5 > len(s.keys)*4 {
			t.slots += s.grow()
			i, _ = s.find(key)
		}
		s.keys[i] = key
		s.n++
		t.n++
	}
	if count > counted {
		if t.over == nil {
			t.over = map[uint64]uint32{}
		}
		t.over[key] = count
		s.counts[i] = counted + 1
		return
	}
	s.counts[i] = uint8(count)
}

// grow makes a shard a quarter larger, and returns how many slots that adds.
func (s *shard) grow() int {
	old := *s
	size := len(old.keys) + len(old.keys)/4 + 8
	s.keys, s.counts = make([]uint64, size), make([]uint8, size)
	for j, c := range old.counts {
		if c != 0 {
			i, _ := s.find(old.keys[j])
			s.keys[i], s.counts[i] = old.keys[j], c
		}
	}
	return size - len(old.keys)
}

// remove frees slot i, and moves up those keys behind it whose search would end there.
func (s *shard) remove(i int) {
	size := len(s.keys)
	s.n--
	for j := i; ; {
		if j++; j == size {
			j = 0
		}
		if s.counts[j] == 0 {
			break
		}
		// The key at j stays if its home lies, cyclically, in (i, j].
		home := s.home(s.keys[j])
		if (home-i+size-1)%size < (j-i+size)%size {
			continue
		}
		s.keys[i], s.counts[i] = s.keys[j], s.counts[j]
		i = j
	}
	s.counts[i] = 0
}

// thin removes the keys that have any bit of mask.
func (t *table) thin(mask uint64) {
	old := *t
	*t = table{}
	for i := range old.shard {
		s := &old.shard[i]
		for j, c := range s.counts {
			if c == 0 || s.keys[j]&mask != 0 {
				continue
			}
			count := uint32(c)
			if c > counted {
				count = old.over[s.keys[j]]
			}
			t.set(s.keys[j], count)
		}
		*s = shard{}
	}
}
