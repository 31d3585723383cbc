package logwrites

import (
	"fmt"
	"math/rand/v2"
)

// Cut is one disk that a power cut could have left: all entries before Durable, and some of the
// entries [Durable, End), which were in the volatile cache or under way.
type Cut struct {
	Durable, End int
	Kind         Kind
	kept         []fate
}

// Kind is how a cut treats the entries that were not durable.
type Kind int

// The kinds of cuts.
const (
	Clean  Kind = iota // only what is durable
	Prefix             // the first writes of the batch
	Torn               // the same, the last of them torn
	Subset             // any writes of the batch
	Shreds             // any writes of the batch, any of them torn
	Kinds              // how many there are
)

func (k Kind) String() string {
	return [Kinds]string{"clean", "prefix", "torn", "subset", "shreds"}[k]
}

// fate is what a cut does to one entry.
type fate struct {
	keep  bool
	torn  bool
	first int    // torn once: how many sectors are kept
	seed  uint64 // torn at many sectors, drawn from this seed; 0: torn once
}

// Batch returns the batch that entry i lies in: the writes that were in the volatile cache
// together, up to their flush. A FUA write is a batch of its own; so is a flush without writes, and
// a mark.
func (l *Log) Batch(i int) (from, end int) {
	if l.Entries[i].barrier() && !l.Entries[i].Flush {
		return i, i + 1
	}
	for from = i; from > 0 && !l.Entries[from-1].barrier(); from-- {
	}
	for end = i; end < len(l.Entries) && !l.Entries[end].barrier(); end++ {
	}
	return from, end
}

// CutAt draws a cut at entry i, as if the power had gone before that entry, and all others of its
// batch, were durable.
func (l *Log) CutAt(i int, kind Kind, r *rand.Rand) *Cut {
	from, end := l.Batch(i)
	c := &Cut{Durable: from, End: end, Kind: kind, kept: make([]fate, end-from)}
	tear := func(j int) fate {
		n := int(l.Entries[j].Len / SectorSize)
		if n < 2 {
			return fate{}
		}
		f := fate{keep: true, torn: true, first: 1 + r.IntN(n-1)}
		if r.IntN(2) == 0 {
			f.seed = r.Uint64() | 1
		}
		return f
	}
	p := 0.1 + 0.8*r.Float64()
	for j := range c.kept {
		switch kind {
		case Clean, Kinds:
		case Prefix, Torn:
			c.kept[j].keep = from+j < i
			if from+j == i && kind == Torn {
				c.kept[j] = tear(from + j)
			}
		case Subset:
			c.kept[j].keep = r.Float64() < p
		case Shreds:
			if c.kept[j].keep = r.Float64() < p; c.kept[j].keep && r.IntN(3) == 0 {
				c.kept[j] = tear(from + j)
			}
		}
	}
	return c
}

// Apply does to a disk that holds the entries before c.Durable what the cut leaves of the others.
func (c *Cut) Apply(l *Log, d Disk) error {
	var buf []byte
	for j, f := range c.kept {
		if !f.keep {
			continue
		}
		var keep func(int) bool
		if f.torn {
			keep = func(sector int) bool { return sector < f.first }
		}
		if f.seed != 0 {
			keep = func(sector int) bool { return rand.New(rand.NewPCG(f.seed, uint64(sector))).IntN(2) == 0 }
		}
		if err := l.apply(d, c.Durable+j, &buf, keep); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cut) String() string {
	kept, torn := 0, 0
	for _, f := range c.kept {
		if f.keep {
			kept++
		}
		if f.torn {
			torn++
		}
	}
	return fmt.Sprintf("%v: entries 0 to %d, and %d of the next %d, %d of them torn", c.Kind, c.Durable, kept, len(c.kept), torn)
}
