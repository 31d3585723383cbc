package objstore

import (
	"context"
	"errors"
)

// fullOperations are what goes on where others fill the disk, and give room back.
var fullOperations = []operation{
	{"others fill the disk", 6, (*world).opOthersFill},
	{"others give back", 4, (*world).opOthersGiveBack},
	{"collect on a full disk", 4, (*world).opCollectOnFullDisk},
	{"collect", 6, (*world).opCollect},
	{"write", 8, (*world).opWrite},
	{"discard all", 4, (*world).opDiscardAll},
	{"delete snapshot", 4, (*world).opDeleteSnapshot},
	{"delete", 1, (*world).opDelete},
	{"settle", 6, (*world).opSettle},
	{"snapshot", 4, (*world).opSnapshot},
	{"reopen", 3, (*world).reopen},
}

// opOthersFill lets others take what the disk has left, mostly to the last byte. The store learns of it
// by itself, or by a write that is refused.
func (w *world) opOthersFill() {
	w.othersFill([]int64{0, 0, 0, 4096, 64 << 10, 1 << 20}[w.pick(6, "but")])
}

func (w *world) othersFill(but int64) {
	total, free, err := w.mem.Space()
	if err != nil {
		return // cut
	}
	w.space = total - free + but
	w.mem.SetSpace(w.space)
	w.note("others leave %d bytes of %d", but, free)
	if w.pick(2, "the store looks") == 0 {
		w.s.space.lookAgain()
	}
}

// opOthersGiveBack gives the disk some room again.
func (w *world) opOthersGiveBack() {
	w.space = int64(12+w.pick(30, "space")) << 20
	w.mem.SetSpace(w.space)
	w.note("others have given room back: %d bytes", w.space)
}

// opDiscardAll discards a volume.
func (w *world) opDiscardAll() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	err := vol.Zero(0, v.size)
	w.note("discard all of %s: %v", v.name, err)
	w.wrote(v, vol, 0, make([]string, v.size/SectorSize), err, "discard")
}

// opCollectOnFullDisk has others take the last byte of a disk on which all has settled, and the ballast
// is there: names can be deleted, and what a dry run has found before can be freed.
func (w *world) opCollectOnFullDisk() {
	w.endAlong()
	ctx, cancel := ctxTimeout()
	defer cancel()
	if w.mem.WasCut() || w.s.Settle(ctx) != nil {
		return
	}
	dry, err := w.s.Collect(ctx, CollectOptions{DryRun: true})
	if err != nil {
		w.answered(err, "dry run")
		return
	}
	if w.s.ballast.keep(); w.s.ballast.held.Load() < w.s.ballast.size {
		return // there was no room for it, or the collector has just begun
	}
	w.othersFill(0)
	w.deleteOnFullDisk()
	report, err := w.s.Collect(ctx, CollectOptions{})
	w.note("collect on a full disk: a dry run has found %+v; it has freed %+v, %v", dry, report, err)
	if w.mem.WasCut() {
		return
	}
	if err != nil && !errors.Is(err, ErrNoSpace) {
		w.failf("collect on a full disk: %v", err)
	}
	w.counts["collections on a full disk"]++
	// What is copied needs more room than there may be, of several passes a dry run knows less, and the
	// filter of each collection takes other dead objects for alive, which makes holes too short.
	certain := dry.Freed - dry.Copied
	if all := dry.Copied == 0 && dry.Passes == 1; certain >= 512<<10 {
		w.counts["collections on a full disk with much that is dead"]++
		if report.Freed <= certain/8 || all && (err != nil || report.Freed < certain/2) {
			w.failf("a dry run has found %+v; on a full disk it has freed %+v, %v", dry, report, err)
		}
	}
	w.counts["bytes freed on a full disk"] += int(report.Freed)
	w.checkObjects()
}

// deleteOnFullDisk deletes a name, which works as long as there is a ballast.
func (w *world) deleteOnFullDisk() {
	v, name := w.anySnap()
	if v == nil || w.pick(2, "delete") == 0 {
		return
	}
	held := w.s.ballast.held.Load()
	err := w.s.DeleteSnapshot(context.Background(), v.name, name)
	w.note("delete snapshot %s@%s on a full disk: %v", v.name, name, err)
	v.snaps[name].maybeGone = true
	if held > 0 && err != nil && !w.mem.WasCut() {
		w.failf("delete snapshot %s@%s on a full disk with a ballast: %v", v.name, name, err)
	}
	if w.answered(err, "delete snapshot") {
		delete(v.snaps, name)
	}
}
