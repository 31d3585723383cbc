package objstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

func init() {
	operations = append(operations, operation{"history", 2, (*world).opHistory}, operation{"policy", 1, (*world).opPolicy},
		operation{"automatic", 1, (*world).opAutomatic})
}

// opPolicy changes what is kept of a volume's past, and may prune it.
func (w *world) opPolicy() {
	v := w.anyVolume()
	if v == nil || v.scratch {
		return
	}
	n := func(what string) int { return max(0, w.pick(6, what)-2) }
	p := Retention{n("last"), n("hourly"), n("daily"), n("weekly"), int64(w.pick(2, "every")) * 60}
	i, err := w.s.SetRetention(context.Background(), v.name, func(Retention) Retention { return p })
	w.note("policy %s %+v: %v", v.name, p, err)
	if w.answered(err, "set a policy") && (i.Policy == nil) != (p == Retention{}) || i.Policy != nil && *i.Policy != p {
		w.failf("policy of %s is %+v, was set to %+v", v.name, i.Policy, p)
	}
	if err != nil || w.pick(2, "prune") == 0 {
		return
	}
	states, _, err := w.s.Prunable(v.name)
	if !w.answered(err, "list what is prunable") {
		return
	}
	gone, err := w.s.PruneHistory(context.Background(), v.name)
	w.note("prune %s: %d states, %v", v.name, len(gone), err)
	if !w.answered(err, "prune") {
		return
	}
	for _, st := range states { // what settled meanwhile may have dropped some
		if h, err := w.s.SnapshotInfo(v.name, st.Name); err == nil {
			w.failf("state %s@%s is there after it was pruned: %+v", v.name, st.Name, h)
		}
	}
}

// opAutomatic has the policies' snapshots made and deleted, as the daemon does.
func (w *world) opAutomatic() {
	for _, name := range w.s.SnapshotsDue() {
		v := w.vols[name]
		if v == nil || v.maybeGone || len(v.unsure) > 0 || len(v.snaps) > 6 {
			continue
		}
		before := slices.Clone(v.cur)
		i, err := w.s.CreateAutomatic(context.Background(), name)
		w.note("automatic snapshot %s@%s: %v", name, i.Name, err)
		if !w.answered(err, "automatic snapshot") { // also if it was made as the process was killed
			v.lostAutomatic = append(v.lostAutomatic, before)
			return
		}
		v.snaps[i.Name] = &modelSnap{content: before}
		v.flushed()
	}
	_, drop, err := w.s.Prunable("")
	if !w.answered(err, "list what is prunable") {
		return
	}
	for _, i := range drop {
		v := w.vols[i.Volume]
		if v == nil || v.snaps[i.Name] == nil || !strings.HasPrefix(i.Name, "auto-") {
			w.failf("%s@%s would be pruned, and nobody knows it", i.Volume, i.Name)
		}
		v.snaps[i.Name].maybeGone = true
		err := w.s.DeleteSnapshot(context.Background(), i.Volume, i.Name)
		w.note("prune %s@%s: %v", i.Volume, i.Name, err)
		if !w.answered(err, "prune a snapshot") {
			return
		}
		delete(v.snaps, i.Name)
	}
}

// opHistory reads the past states of a volume, and may make a volume of one.
func (w *world) opHistory() {
	v := w.anyVolume()
	if v == nil {
		return
	}
	list := w.checkHistory(v)
	if len(list) == 0 || len(w.vols) >= 6 || v.scratch || w.pick(2, "clone") == 0 {
		return
	}
	st := list[w.pick(len(list), "state")]
	content, ok := w.readState(v, st)
	if !ok {
		return
	}
	w.names++
	n := newModelVolume(fmt.Sprintf("h%d", w.names), st.Size, v.blockSize)
	n.cur, n.maybeGone = content, true
	w.vols[n.name] = n
	_, err := w.s.CloneVolume(context.Background(), v.name, st.Name, n.name)
	w.note("clone %s@%s as %s: %v", v.name, st.Name, n.name, err)
	if w.dropped(v, st, err) {
		delete(w.vols, n.name)
		return
	}
	if w.answered(err, "clone a state") {
		n.maybeGone = false
	}
}

// checkHistory holds the past states of a volume against what is known of them, which is that a
// state never changes, and that its root is that of its bytes.
func (w *world) checkHistory(v *modelVolume) []SnapshotInfo {
	list, err := w.s.History(v.name)
	if !w.answered(err, "list the history") {
		return nil
	}
	if v.states == nil {
		v.states = map[string]string{}
	}
	last := ""
	for _, st := range list {
		if len(st.Name) < len(last) || len(st.Name) == len(last) && st.Name <= last {
			w.failf("states of %s: %s after %s", v.name, st.Name, last)
		}
		last = st.Name
		if was := v.states[st.Name]; was != "" && was != st.Root {
			w.failf("state %s@%s was of root %s, and is of %s", v.name, st.Name, was, st.Root)
		}
		v.states[st.Name] = st.Root
	}
	for _, st := range list {
		if w.pick(3, "read a state") > 0 {
			continue
		}
		if _, ok := w.readState(v, st); !ok {
			return nil
		}
	}
	w.note("history of %s: %d states", v.name, len(list))
	return list
}

// resizedState forgets the root of the newest state that is known of a volume, which is resized: if
// the file of states can't be saved, the next opening gives its name to the head, as it is then.
func (v *modelVolume) resizedState() {
	newest := ""
	for name := range v.states {
		if len(name) > len(newest) || len(name) == len(newest) && name > newest {
			newest = name
		}
	}
	delete(v.states, newest)
}

// dropped reports whether a past state was not found because it was dropped meanwhile: as what came
// since has settled, the policy keeps another one.
func (w *world) dropped(v *modelVolume, st SnapshotInfo, err error) bool {
	if !errors.Is(err, ErrNotFound) {
		return false
	}
	list, err := w.s.History(v.name)
	is := func(i SnapshotInfo) bool { return i.Name == st.Name }
	return w.answered(err, "list the history") && !slices.ContainsFunc(list, is)
}

// readState reads a past state, and checks its bytes against its root.
func (w *world) readState(v *modelVolume, st SnapshotInfo) (content []string, ok bool) {
	defer w.noFaults()()
	view, err := w.s.OpenSnapshot(v.name, st.Name)
	if w.dropped(v, st, err) {
		return nil, false
	}
	if !w.answered(err, "open a state") {
		return nil, false
	}
	b := make([]byte, view.Size())
	_, err = view.ReadAt(b, 0)
	if !w.answered(err, "read a state") || !w.answered(view.Close(), "close a state") {
		return nil, false
	}
	for i := range int64(len(b)) / SectorSize {
		content = append(content, sectorOf(b[i*SectorSize:(i+1)*SectorSize]))
	}
	if root := modelRoot(content, w.chunkSize); root != st.Root || modelLogical(content, w.chunkSize) != st.Logical {
		w.failf("state %s@%s of root %s, %d logical bytes, holds bytes of root %s", v.name, st.Name, st.Root, st.Logical, root)
	}
	return content, true
}

// findAutomatic takes over an automatic snapshot whose making was not answered.
func (w *world) findAutomatic(v *modelVolume, name string) {
	defer w.noFaults()()
	view, err := w.s.OpenSnapshot(v.name, name)
	if !w.answered(err, "open an automatic snapshot") {
		return
	}
	b := make([]byte, view.Size())
	_, err = view.ReadAt(b, 0)
	if !w.answered(err, "read an automatic snapshot") || !w.answered(view.Close(), "close an automatic snapshot") {
		return
	}
	for _, content := range v.lostAutomatic {
		if sameSectors(b, content) {
			v.snaps[name] = &modelSnap{content: content}
		}
	}
}
