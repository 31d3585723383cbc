package objstore

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/past"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/retention"
	"varve/objstore/vfs"
)

// A past state of a volume is a root to which the volume had settled, and which its retention
// policy keeps. It is named by its generation, in braces: VOLUME@{17}. No snapshot can have such a
// name, and a number is never used twice, so that a name means the same as long as the state is
// kept. A past state is like a snapshot that has settled: whatever takes the name of a snapshot to
// read it takes that of a past state.
//
// Every record that sets the head of a volume to another generation adds a state, and with it the
// policy is applied: a busy volume settles 43,000 times a day. A resize keeps the generation. The
// states are in memory, and in one file, which is replaced when they have changed (package past).
// It is written behind: a crash may lose the states of the last seconds, and brings back none that
// was dropped for longer than that. No volume and no snapshot depends on the file.

// timeline holds the past states of all volumes.
type timeline struct {
	fs    vfs.FS
	store uuid.UUID
	wall  func() time.Time
	clock *policyClock
	boot  uuid.UUID // of this machine, as the file names it

	saveMu lockorder.IOMutex[lockorder.History] // held while the file is replaced; taken before mu

	mu      lockorder.Mutex[lockorder.Memory]
	volumes map[uuid.UUID][]*pastState // in order of generation; none is empty
	saved   map[stateKey]rootOf        // what the file has, or may have
	changed bool                       // since it was saved
	failing bool                       // the last try to save has failed
	savedAt time.Duration              // by the clock's elapsed: when it was saved, or that was tried
	bytes   int64                      // of the file
}

// pastState is a state and what the engine calls it: a snapshot that has settled.
type pastState struct {
	snap refs.Snapshot
	at   time.Time // by the policy clock
}

type stateKey struct {
	volume uuid.UUID
	gen    uint64
}

const (
	saveEvery     = 2 * time.Second // the file is replaced at most that often
	saveBandwidth = 16 << 10        // and so seldom that no more than so many bytes a second are written
)

// stateName is the name of the past state of a generation.
func stateName(gen uint64) string { return "{" + strconv.FormatUint(gen, 10) + "}" }

// IsStateName reports whether a name stands for a past state of a volume, and not for a snapshot:
// its number in braces.
func IsStateName(name string) bool {
	digits := strings.Trim(name, "{}")
	gen, err := strconv.ParseUint(digits, 10, 64)
	return err == nil && stateName(gen) == name
}

// openTimeline reads the file of past states. States of volumes that do not exist, or keep no
// history any more, are left out. What is damaged is lost, and returned.
// REQUIRES: the catalog is not shared yet.
func openTimeline(fs vfs.FS, c *catalog, boot string, o *Options) (*timeline, []*disk.CorruptError, error) {
	t := &timeline{
		fs: fs, store: c.sb.ID, wall: o.Now, boot: uuid.NewSHA1(c.sb.ID, []byte(boot)),
		volumes: map[uuid.UUID][]*pastState{}, saved: map[stateKey]rootOf{},
	}
	saved, states, damage, err := readHistory(fs, c)
	if err != nil {
		return nil, nil, err
	}
	t.changed = len(damage) > 0
	var newest time.Time
	for i := range states {
		st := &states[i]
		t.saved[stateKey{st.Volume, st.Gen}] = rootOf{st.Root, st.Size}
		v := c.refs.ByID[st.Volume]
		if v == nil || v.Policy.Keep().None() || st.Gen > v.Gen {
			t.changed = true
			continue
		}
		t.volumes[st.Volume] = append(t.volumes[st.Volume], &pastState{snapOfState(st), st.At})
		newest = later(newest, st.At)
	}
	t.bytes = int64(past.HeaderSize + len(states)*past.StateSize)
	for _, v := range c.refs.ByID {
		for _, sn := range v.Order {
			newest = later(newest, sn.Automatic)
		}
	}
	if since := o.elapsed() - saved.SinceBoot; saved.Boot == t.boot && since >= 0 {
		t.clock = newPolicyClock(later(newest, saved.At.Add(since)), o.elapsed)
	} else {
		t.clock = newPolicyClock(later(newest, o.Now()), o.elapsed)
	}
	return t, damage, nil
}

// readHistory reads the file, if there can be one.
func readHistory(fs vfs.FS, c *catalog) (clock past.Clock, states []past.State, damage []*disk.CorruptError, err error) {
	if !c.sb.current.Load().Features.Has(refs.NewFeatures(refs.Policy)) {
		return clock, nil, nil, nil
	}
	f, err := fs.Open(past.File)
	if errors.Is(err, os.ErrNotExist) {
		return clock, nil, nil, nil // nothing has settled since the first policy, or it was lost
	}
	var content disk.Content
	if err == nil {
		content, err = disk.ReadContent(f)
		err = errors.Join(err, f.Close())
	}
	if disk.Damaged(err) {
		return clock, nil, []*disk.CorruptError{disk.AsCorrupt(err, past.File, 0, "history")}, nil
	}
	if err != nil {
		return clock, nil, nil, err
	}
	clock, states, damage = past.Decode(c.sb.ID, content.Data)
	return clock, states, damage, nil
}

func snapOfState(st *past.State) refs.Snapshot {
	return refs.Snapshot{
		Name: stateName(st.Gen), Created: st.Settled, Gen: st.Gen, Size: st.Size, Settled: true, Root: st.Root, Logical: st.Logical,
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// note takes over the head of a volume as its newest state, and applies the policy. A resize, which
// keeps the generation, makes no state: the one that there is has the name, and what was cut off.
// REQUIRES: catalog.mu is held.
func (t *timeline) note(v *refs.Volume) {
	keep := v.Policy.Keep()
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.volumes[v.ID]
	fresh := len(list) == 0 || list[len(list)-1].snap.Gen < v.Gen && list[len(list)-1].snap.Root != v.Root
	if !keep.None() && !v.Root.IsZero() && fresh {
		list = append(list, &pastState{
			refs.Snapshot{Name: stateName(v.Gen), Created: t.wall().UTC(), Gen: v.Gen, Size: v.Size, Settled: true, Root: v.Root, Logical: v.Logical},
			t.clock.now(),
		})
		t.changed = true
	}
	t.setLocked(v.ID, without(list, dropped(list, keep)))
}

// begin takes over the head of a volume as its first state, if it has none: of a volume that gets a
// policy. To a history that there is, a new policy is applied with the next state, or by prune.
// REQUIRES: catalog.mu is held.
func (t *timeline) begin(v *refs.Volume) {
	if len(t.of(v.ID)) == 0 {
		t.note(v)
	}
}

// setLocked replaces the states of a volume.
// REQUIRES: mu is held.
func (t *timeline) setLocked(id uuid.UUID, list []*pastState) {
	t.changed = t.changed || len(list) != len(t.volumes[id])
	if len(list) == 0 {
		delete(t.volumes, id)
		return
	}
	t.volumes[id] = list
}

// forget drops the history of a volume that is deleted.
func (t *timeline) forget(id uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.setLocked(id, nil)
}

// of returns the states of a volume, oldest first. They do not change.
func (t *timeline) of(id uuid.UUID) []*pastState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.volumes[id])
}

// find returns a state of a volume by its name; nil if it is not kept.
func (t *timeline) find(id uuid.UUID, name string) *refs.Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.volumes[id] {
		if p.snap.Name == name {
			return &p.snap
		}
	}
	return nil
}

// prune applies the policy to a volume, or with dry alone says what it would drop.
func (t *timeline) prune(v *refs.Volume, dry bool) []*pastState {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.volumes[v.ID]
	drop := dropped(list, v.Policy.Keep())
	if !dry {
		t.setLocked(v.ID, without(list, drop))
	}
	return drop
}

// dropped returns the states of a list, in order of generation, that a policy does not keep.
func dropped(list []*pastState, keep retention.Keep) []*pastState {
	return retention.Dropped(keep, list, func(p *pastState) time.Time { return p.at })
}

// without returns the states of a list that are not in drop. The list itself stays as it is.
func without(list, drop []*pastState) []*pastState {
	if len(drop) == 0 {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(p *pastState) bool { return slices.Contains(drop, p) })
}

// roots yields the root of every state that is kept, and of every one that an opening may find
// again, because the file that does not have it any more is not durable yet. Some come twice.
func (t *timeline) roots(yield func(id merkle.Hash, size int64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.saved {
		yield(r.id, r.size)
	}
	for _, list := range t.volumes {
		for _, p := range list {
			yield(p.snap.Root, p.snap.Size)
		}
	}
}

// saveDue reports whether the states have changed, and were not saved just now.
func (t *timeline) saveDue() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed && t.clock.elapsed()-t.savedAt >= max(saveEvery, time.Duration(t.bytes/saveBandwidth)*time.Second)
}

// saveHistory saves the past states if they have changed and the store takes writes. The first of
// several errors is logged, and their end: states are tried again, and volumes do not depend on
// them.
func (s *Store) saveHistory() {
	if s.writeError() != nil {
		return
	}
	err := s.catalog.past.save()
	switch was := s.catalog.past.noteFailing(err != nil); {
	case err != nil && !was:
		s.log.Warn("the history of volumes was not saved, and is retried", "error", err)
	case err == nil && was:
		s.log.Info("the history of volumes was saved again")
	}
}

// noteFailing notes whether the last save has failed, and returns whether the one before had.
func (t *timeline) noteFailing(now bool) (was bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, t.failing = t.failing, now
	return was
}

// save replaces the file if the states have changed. After an error the file has the states of
// before or of now.
func (t *timeline) save() error {
	t.saveMu.Lock()
	defer t.saveMu.Unlock()
	t.mu.Lock()
	if !t.changed {
		t.mu.Unlock()
		return nil
	}
	var states []past.State
	next := map[stateKey]rootOf{}
	for id, list := range t.volumes {
		for _, p := range list {
			states = append(states, past.State{
				Volume: id, Gen: p.snap.Gen, Root: p.snap.Root, Size: p.snap.Size, Logical: p.snap.Logical, Settled: p.snap.Created, At: p.at,
			})
			next[stateKey{id, p.snap.Gen}] = rootOf{p.snap.Root, p.snap.Size}
		}
	}
	clock := past.Clock{Boot: t.boot, SinceBoot: t.clock.elapsed(), At: t.clock.now()}
	maps.Copy(t.saved, next) // until it is known which file counts
	t.changed, t.savedAt, t.bytes = false, t.clock.elapsed(), int64(past.HeaderSize+len(states)*past.StateSize)
	t.mu.Unlock()
	err := disk.ReplaceFile(t.fs, past.File, past.Encode(t.store, clock, states))
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.changed = true
		return fmt.Errorf("save %s: %w", past.File, disk.SpaceError(err))
	}
	t.saved = next
	return nil
}
