package objstore

import (
	"context"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// Uses says what the bytes of the store's files are for. The sum of all is what the files occupy on
// disk.
type Uses struct {
	Data int64 `json:"data"` // chunks of volumes and snapshots, each once
	Tree int64 `json:"tree"` // their tree nodes and roots, each once
	// History is what only past states of volumes have, chunks and tree. Nil if it was not counted:
	// it is in Data and Tree then.
	History  *int64 `json:"history,omitempty"`
	Tail     int64  `json:"tail"`     // writes that have not settled, overwritten ones too
	Dead     int64  `json:"dead"`     // what nothing refers to, and collection frees
	Lists    int64  `json:"lists"`    // headers, footers and object logs of segments
	Journals int64  `json:"journals"` // what the tail is recorded in
	Refs     int64  `json:"refs"`     // the log of names
	Index    int64  `json:"index"`
	Other    int64  `json:"other"` // superblocks, the daemon's files, and the ballast
	// Estimated is true where Data or History, and so Dead, comes from a sample of the chunks.
	Estimated bool `json:"estimated,omitempty"`
}

// Total returns the sum of all.
func (u *Uses) Total() int64 {
	sum := u.Data + u.Tree + u.Tail + u.Dead + u.Lists + u.Journals + u.Refs + u.Index + u.Other
	if u.History != nil {
		sum += *u.History
	}
	return sum
}

// CountedStat is Stat with what the space is for as of now, History too, as far as counting takes
// no longer than two seconds. It blocks.
func (s *Store) CountedStat(ctx context.Context) (Stat, error) {
	var live *liveBytes
	err := s.accounting.briefly(ctx, func(ctx context.Context) error {
		now := *s.accounting.live.Load()
		live = &now
		return s.accounting.addHistory(ctx, live)
	})
	if err != nil {
		return Stat{}, err
	}
	if live == nil {
		live = s.accounting.live.Load()
	}
	return s.stat(live)
}

// uses returns what the files are for, of which p says what they occupy; nil if live is, because it
// is not counted yet. What the segments occupy beyond what is known is dead: objects that nothing
// refers to, and what the file system has not freed. It blocks.
func (s *Store) uses(p parts, live *liveBytes) (*Uses, error) {
	if live == nil {
		return nil, nil
	}
	u := &Uses{
		Data: live.Data, Tree: live.Tree, Journals: p.journals, Refs: p.refs, Index: p.index, Other: p.rest, Estimated: !live.exact,
	}
	history := int64(0)
	if h := live.history; h != nil {
		history = h.Total()
		u.Data, u.Tree, u.History = max(u.Data-h.Data, 0), u.Tree-h.Tree, &history // data comes from two samples
		u.Estimated = u.Estimated || !h.exact
	}
	for _, g := range s.segments.All() {
		u.Tail += g.Unsettled.Load()
		u.Lists += disk.BlockSize + g.FooterSize()
		if g.HasObjectLog() {
			n, err := s.usage.file(segment.ObjectLogName(g.ID))
			if err != nil {
				return nil, err
			}
			u.Lists += n
		}
	}
	u.Dead = p.segments - u.Data - u.Tree - history - u.Tail - u.Lists
	if u.Dead < 0 {
		u.Tail, u.Dead = u.Tail+u.Dead, 0 // it has room that nothing was written to, or chunks that were adopted there
	}
	if u.Tail < 0 {
		u.Data, u.Tail = max(u.Data+u.Tail, 0), 0 // a sample errs, or something has changed between the looks
	}
	return u, nil
}
