package extent

// Extent is a run of sectors of a volume and where their bytes lie.
type Extent struct {
	End     uint64 // volume sector behind the last one; the order of a Map
	Sectors uint64 // length, at least 1
	File    uint64 // sector in the segment's file at which the bytes begin; 0 for a hole
	Segment uint32 // the segment's ID; 0: a hole
}

// Start returns the first sector of e.
func (e Extent) Start() uint64 { return e.End - e.Sectors }

// Hole reports whether e is zeroes.
func (e Extent) Hole() bool { return e.Segment == 0 }

// Cut returns the part of e inside the sectors [from, to), which must overlap it.
func (e Extent) Cut(from, to uint64) Extent {
	if s := e.Start(); s < from {
		if !e.Hole() {
			e.File += from - s
		}
		e.Sectors -= from - s
	}
	if e.End > to {
		e.Sectors -= e.End - to
		e.End = to
	}
	return e
}

// continuedBy reports whether next, which begins where e ends, continues e in the file too.
func (e Extent) continuedBy(next Extent) bool {
	return e.Segment == next.Segment && (e.Hole() || e.File+e.Sectors == next.File)
}
