package objstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The operations of a world that make a volume of another's state, or change which state is a
// volume's.

// opClone clones a snapshot, or what a volume holds. From then on the clone is a volume like any
// other.
func (w *world) opClone() {
	if len(w.vols) >= 6 {
		return
	}
	v, snap := w.anySnap()
	if v == nil || w.pick(2, "live") == 0 {
		v, snap = w.anyVolume(), ""
	}
	if v == nil || v.scratch || snap == "" && len(v.unsure) > 0 {
		return
	}
	content := v.cur
	if snap != "" {
		content = v.snaps[snap].content
	}
	w.names++
	name := fmt.Sprintf("c%d", w.names)
	n := newModelVolume(name, int64(len(content))*SectorSize, v.blockSize)
	copy(n.cur, content)
	n.maybeGone = true
	w.vols[name] = n
	ctx, cancel := w.patience()
	defer cancel()
	i, err := w.s.CloneVolume(ctx, v.name, snap, name)
	w.note("clone %s@%s as %s: %v", v.name, snap, name, err)
	if w.gaveUp(err) {
		if _, err := w.s.VolumeInfo(name); !errors.Is(err, ErrNotFound) {
			w.failf("clone %s was given up, and is there: %v", name, err)
		}
		delete(w.vols, name)
		return
	}
	if !w.answered(err, "clone") {
		return
	}
	n.maybeGone = false
	if snap == "" {
		v.flushed() // what it was made of is durable
	}
	if want := modelRoot(content, w.chunkSize); i.Root != want || i.Size != n.size || i.BlockSize != v.blockSize {
		w.failf("clone of %s@%s is %+v, want root %s", v.name, snap, i, want)
	}
	if want := modelLogical(content, w.chunkSize); i.Logical != want || i.Tail != 0 {
		w.failf("clone of %s@%s has %d logical bytes and a tail of %d, want %d and none", v.name, snap, i.Logical, i.Tail, want)
	}
	if vol := w.volume(name); vol != nil && w.pick(2, "look") == 0 {
		defer w.noFaults()()
		w.checkVolume(n, vol, false)
	}
}

// opRollback rolls a volume back to one of its snapshots, while plans of the volume are held.
func (w *world) opRollback() {
	v, snap := w.anySnap()
	if v == nil || v.scratch || len(v.unsure) > 0 {
		return
	}
	if vol := w.open[v.name]; vol != nil {
		ctx, cancel := ctxTimeout()
		_, err := w.s.RollbackVolume(ctx, v.name, snap, RollbackOptions{})
		cancel()
		if !w.mem.WasCut() && !errors.Is(err, ErrInUse) {
			w.failf("rollback of a volume that is open: %v", err)
		}
		delete(w.open, v.name)
		if err := vol.Close(); !w.answered(err, "close volume") {
			return
		}
		v.flushed()
	}
	o := RollbackOptions{NoSnapshot: w.pick(2, "no snapshot") == 0}
	patience := w.patienceTime()
	var r Rollback
	err := w.underHeldPlans(v, func() (err error) {
		if len(v.unsure) > 0 {
			o.NoSnapshot = true // what it would keep is not known
		}
		v.rolling = &modelRollback{to: v.snaps[snap].content, before: slices.Clone(v.cur), keeps: !o.NoSnapshot}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		r, err = w.s.RollbackVolume(ctx, v.name, snap, o)
		return err
	})
	w.note("rollback %s@%s %+v: kept %q, %v", v.name, snap, o, r.Snapshot, err)
	if w.gaveUp(err) || !w.answered(err, "rollback") {
		if w.mem.WasCut() {
			return
		}
		if i, err := w.s.VolumeInfo(v.name); err == nil {
			v.resolveSize(i.Size)
		}
		if vol := w.volume(v.name); vol != nil {
			w.checkVolume(v, vol, false)
			w.checkSnaps(v)
		}
		return
	}
	before, same := v.rolling.before, slices.Equal(v.cur, v.rolling.to)
	v.rolledBack()
	switch kept := r.Snapshot != ""; {
	case kept:
		v.snaps[r.Snapshot] = &modelSnap{content: before}
	case !o.NoSnapshot && !same:
		w.failf("a rollback has kept nothing of %s", v.name)
	}
	if want := modelRoot(v.cur, w.chunkSize); r.Volume.Root != want || r.Volume.Tail != 0 {
		w.failf("%s was rolled back to root %s with a tail of %d, want %s", v.name, r.Volume.Root, r.Volume.Tail, want)
	}
	if vol := w.volume(v.name); vol != nil {
		w.checkVolume(v, vol, false)
		w.checkSnaps(v)
	}
}

// patience returns a context that ends at a random moment, or hardly ever.
func (w *world) patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), w.patienceTime())
}

// patienceTime returns how long a call may take: too short for some, or longer than any takes.
func (w *world) patienceTime() time.Duration {
	if w.pick(4, "give up") > 0 {
		return 150 * time.Second
	}
	return time.Duration(w.pick(3000, "microseconds")) * time.Microsecond
}

// gaveUp reports whether a call has ended with its context.
func (w *world) gaveUp(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) && !w.mem.WasCut()
}

// modelRollback is a rollback that was not answered: all of it has happened, or nothing.
type modelRollback struct {
	to, before []string
	keeps      bool
}

// rolledBack notes a rollback that has happened.
func (v *modelVolume) rolledBack() {
	v.cur = slices.Clone(v.rolling.to)
	v.size = int64(len(v.cur)) * SectorSize
	v.rolling = nil
	clear(v.alts)
	clear(v.unsure)
}

// resolveRollback finds out what has become of a rollback that was not answered. got is what the
// volume holds. In a store that has become read-only the record of the rollback may still take
// effect, at the next opening.
func (w *world) resolveRollback(v *modelVolume, got []byte) {
	r := v.rolling
	if r == nil {
		return
	}
	list, err := w.s.Snapshots(v.name)
	if err != nil {
		w.failf("list snapshots of %s: %v", v.name, err)
	}
	kept := ""
	for _, i := range list {
		if strings.HasPrefix(i.Name, "rollback-") && v.snaps[i.Name] == nil && !slices.Contains(v.lost, i.Name) {
			kept = i.Name
		}
	}
	if kept != "" {
		v.snaps[kept] = &modelSnap{content: r.before}
		if !r.keeps || !sameSectors(got, r.to) {
			w.failf("volume %s has snapshot %s of a rollback, but was not rolled back (keeps: %v)", v.name, kept, r.keeps)
		}
	}
	if kept != "" || !r.keeps && sameSectors(got, r.to) {
		v.rolledBack()
	}
	if !w.refsInDoubt() {
		v.rolling = nil
	}
}

// opRename gives a volume, or one of its snapshots, another name, open or not.
func (w *world) opRename() {
	if w.pick(2, "snapshot") == 0 {
		w.renameSnapshot()
		return
	}
	v := w.anyVolume()
	pending := func(v *modelVolume) bool { return v.renaming != "" }
	if v == nil || v.scratch || slices.ContainsFunc(slices.Collect(maps.Values(w.vols)), pending) {
		return
	}
	w.names++
	from, to := v.name, fmt.Sprintf("r%d", w.names)
	if old := w.freed; old != "" && w.vols[old] == nil && w.pick(2, "an old name") == 0 {
		to = old
	}
	v.renaming = to
	_, err := w.s.RenameVolume(context.Background(), from, to)
	w.note("rename %s to %s: %v", from, to, err)
	if !w.answered(err, "rename") {
		if !w.mem.WasCut() {
			w.resolveRename(v, false)
		}
		return
	}
	w.renamed(v)
}

// renamed notes that a volume has its new name.
func (w *world) renamed(v *modelVolume) {
	from, to := v.name, v.renaming
	v.renaming, v.name, w.freed = "", to, from
	delete(w.vols, from)
	w.vols[to] = v
	if vol := w.open[from]; vol != nil {
		delete(w.open, from)
		w.open[to] = vol
	}
}

// resolveRename finds out which of two names a volume has whose renaming was not answered. Until the
// next opening (final) the record of a renaming that has failed may still take effect.
func (w *world) resolveRename(v *modelVolume, final bool) {
	if v.renaming == "" {
		return
	}
	_, err := w.s.VolumeInfo(v.name)
	_, terr := w.s.VolumeInfo(v.renaming)
	switch there, renamed := err == nil, terr == nil; {
	case there && renamed:
		w.failf("a volume is there as %s and as %s", v.name, v.renaming)
	case renamed:
		w.renamed(v)
	case final:
		v.renaming = ""
	}
}

// checkPair finds out which of two names a snapshot has whose renaming was not answered.
func (v *modelVolume) checkPair(w *world, there map[string]SnapshotInfo) {
	if v.pair == [2]string{} {
		return
	}
	_, from := there[v.pair[0]]
	if _, to := there[v.pair[1]]; from == to {
		w.failf("a snapshot of %s is there as %s: %v, and as %s: %v", v.name, v.pair[0], from, v.pair[1], to)
	}
	v.pair = [2]string{}
}

func (w *world) renameSnapshot() {
	v, from := w.anySnap()
	if v == nil {
		return
	}
	w.names++
	to := fmt.Sprintf("s%d", w.names)
	if w.pick(2, "an old name") == 0 {
		to = v.freed
	}
	if v.pair != [2]string{} || to == "" || v.snaps[to] != nil || slices.Contains(v.lost, to) {
		return
	}
	// Until it is known which of the two there is, each may be.
	sn := v.snaps[from]
	other := *sn
	sn.maybeGone, other.maybeGone = true, true
	v.snaps[to], v.pair = &other, [2]string{from, to}
	_, err := w.s.RenameSnapshot(context.Background(), v.name, from, to)
	w.note("rename snapshot %s@%s to %s: %v", v.name, from, to, err)
	if !w.answered(err, "rename snapshot") {
		return
	}
	delete(v.snaps, from)
	other.maybeGone, v.freed, v.pair = false, from, [2]string{}
	if w.pick(2, "look") == 0 {
		w.checkSnap(v, to)
	}
}
