package objstore

import (
	"context"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// Uses says what the bytes of the store's files are for. The sum of all is what the files occupy on
// disk.
type Uses struct {
	Data     int64 `json:"data"`     // chunks of volumes and snapshots, each once
	Tree     int64 `json:"tree"`     // their tree nodes and roots, each once
	Tail     int64 `json:"tail"`     // writes that have not settled, overwritten ones too
	Dead     int64 `json:"dead"`     // what nothing refers to, and collection gives back
	Lists    int64 `json:"lists"`    // headers, footers and object logs of segments
	Journals int64 `json:"journals"` // what the tail is recorded in
	Refs     int64 `json:"refs"`     // the log of names
	Index    int64 `json:"index"`
	Other    int64 `json:"other"` // superblocks, and the daemon's files
	// Estimated is true where Data, and so Dead, comes from a sample of the chunks.
	Estimated bool `json:"estimated,omitempty"`
}

// Count brings up to date what Stat says of uses, as far as that takes no longer than two seconds.
// An error is one of ctx. It blocks.
func (s *Store) Count(ctx context.Context) error {
	return s.accounting.shares(ctx, 0, nil)
}

// uses returns what the files are for, of which p says what they occupy; nil until it is counted.
// What the segments occupy beyond what is known is dead: objects that nothing refers to, and what
// the file system has not given back. It blocks.
func (s *Store) uses(p parts) (*Uses, error) {
	live := s.accounting.live.Load()
	if live == nil {
		return nil, nil
	}
	u := &Uses{
		Data: live.Data, Tree: live.Tree, Journals: p.journals, Refs: p.refs, Index: p.index, Other: p.rest, Estimated: !live.exact,
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
	u.Dead = p.segments - u.Data - u.Tree - u.Tail - u.Lists
	if u.Dead < 0 { // what changed between the looks, or a sample that errs
		u.Data, u.Dead = max(u.Data+u.Dead, 0), 0
	}
	return u, nil
}
