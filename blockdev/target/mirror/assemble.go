package mirror

import (
	"errors"
	"fmt"
	"strings"

	"varve/uring/queue"
)

// found is a leg as it was found.
type found struct {
	path  string
	state state
	slot  int
	disk  disk
}

// known are the legs of a set that were given, by index; nil: missing.
type known [MaxLegs]*found

// plan is what becomes of a set that is opened.
type plan struct {
	state state  // the next one; of a set that is only read, not to be written
	whole bool   // all regions are to be copied, and not only those of the bitmap
	had   legSet // legs whose bitmaps count
	other legSet // legs that were given, and are not used: out
}

// Events tell whether a leg that went out was used since. When legs are missing, those that are there
// can't know which state the missing ones have: there may be one for each leg that failed, in the
// change that was being written when it all ended. Each opening goes well past them.
const (
	slack    = MaxLegs
	openStep = 2*slack + 1
)

// ErrSplit means that legs of a set were used apart from each other, so that each has what the others lack.
var ErrSplit = errors.New("split mirror")

// ErrIncomplete means that a leg is missing that the set counts on.
var ErrIncomplete = errors.New("incomplete mirror")

// assemble decides which legs of a set count. from is the index of the leg that the user has chosen,
// or -1.
func (k *known) assemble(degraded bool, from int) (p plan, err error) {
	ruling := k.ruling()
	if from >= 0 {
		return k.resyncFrom(from, ruling), nil
	}
	if err := k.split(ruling); err != nil {
		return p, err
	}
	p.state = ruling.state
	s := &p.state
	if missing := k.missing(s); missing != nil && !degraded {
		return p, fmt.Errorf("%w: %w: the mirror %s has %d legs; missing: leg %s; to use it without, say --degraded: the leg has to be resynced then",
			queue.ErrInvalid, ErrIncomplete, s.id, s.legs, strings.Join(missing, ", "))
	}
	unclean, behind, settled := false, legSet(0), ruling.state.events
	for i := range s.legs {
		f := k[i]
		switch {
		case s.parts[i] == partOut:
			if f != nil {
				p.other |= one(i)
			}
		case f == nil:
			s.parts[i], s.left[i] = partOut, ruling.state.events+slack
		case f.state.events < ruling.state.settled: // a copy, or one whose place was taken
			behind |= one(i)
		default:
			settled = min(settled, f.state.events)
			unclean = unclean || !f.state.clean || f.state.events != ruling.state.events
		}
	}
	for i := range s.legs {
		if behind.has(i) {
			s.parts[i], p.whole = partResyncing, true
		}
	}
	p.had = s.in(partInSync)
	if p.had == 0 {
		return p, fmt.Errorf("%w: %w: none of the legs given has all that was written to the mirror %s; give leg %s, or say --resync-from FILE to use what FILE has",
			queue.ErrInvalid, ErrIncomplete, s.id, join(ruling.state.list(partInSync)))
	}
	s.clean, s.settled = !unclean, settled
	s.events += openStep
	return p, nil
}

// demote has one leg in sync decide what the regions hold that were being written when the set was
// last used: the others get it from there.
func (p *plan) demote(regions int) {
	if p.state.clean || regions == 0 {
		return
	}
	first := true
	for i := range p.state.legs {
		if p.state.parts[i] != partInSync {
			continue
		}
		if !first {
			p.state.parts[i] = partResyncing
		}
		first = false
	}
}

// ruling returns the leg that knows most.
func (k *known) ruling() *found {
	var r *found
	for _, f := range k {
		if f != nil && (r == nil || f.state.events > r.state.events) {
			r = f
		}
	}
	return r
}

// split refuses a leg that was used after the others had it go out: each side has what the other lacks.
func (k *known) split(ruling *found) error {
	for i, f := range k {
		if f != nil && ruling.state.parts[i] == partOut && f.state.apart(i, ruling.state.left[i]) {
			return fmt.Errorf("%w: %w: %s and %s were each used without the other; --resync-from says which one counts: what only the other has is lost",
				queue.ErrInvalid, ErrSplit, ruling.path, f.path)
		}
	}
	return nil
}

// apart reports whether a leg was used since it left, at which the set had left events. One that is
// not in sync is used by none but the set.
func (s *state) apart(leg int, left uint64) bool {
	return s.events > left && s.parts[leg] == partInSync
}

// missing are the legs that a state counts on and that were not given.
func (k *known) missing(s *state) (list []string) {
	for i := range s.legs {
		if s.parts[i] != partOut && k[i] == nil {
			list = append(list, fmt.Sprint(i))
		}
	}
	return list
}

// resyncFrom has one leg decide everything.
func (k *known) resyncFrom(from int, ruling *found) (p plan) {
	p.state = k[from].state
	p.state.events, p.state.clean = ruling.state.events+openStep, false
	p.state.settled = k[from].state.events
	p.had, p.whole = one(from), true
	for i := range p.state.legs {
		switch {
		case i == from:
			p.state.parts[i] = partInSync
		case k[i] != nil:
			p.state.parts[i] = partResyncing
		case p.state.parts[i] != partOut:
			p.state.parts[i], p.state.left[i] = partOut, 0
		}
	}
	return p
}

func join(list []int) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), " or "), "[]")
}
