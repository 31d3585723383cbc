package segment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// This file finds the object list of a segment that was not sealed, or whose sealing was
// interrupted. The object log names objects. A whole footer at the segment's capacity names all
// objects that existed when it was written, whatever the header says, because only sealing writes
// there. So what either of the two names counts as used.
//
// Shrinking (File.Shrink) takes objects out of the list, so that the newer one of the two names less.
// Both say how often the list was shortened before. A shortened object log that is not older than
// the footer counts alone. If it is damaged and the footer is there, nothing was punched yet, as the
// footer goes before anything is punched.
//
// No crash leaves a log that is older than a shortened footer. Files that were copied one after the
// other while the store was in use may be such a pair, if the log was copied first. What the log
// names beyond the footer may have been punched before the segment was copied. If it counted, new
// writes of the same content would refer to zeroes.

// reconcile opens the object log, if there is one, and compares it with the footer, if there is
// one:
//
//	object log           footer                          result
//	older, or damaged    shortened                       sealed; the log has been outlived
//	good, shortened      any other                       the log counts; the footer goes, and sealing continues
//	good                 none, or names no more          the log counts; sealing, if it was cut off, continues
//	good                 names more, and all of these    sealed; the log has been outlived
//	none, or damaged     names all that can be read      sealed; the log has been outlived
//	good                 each names some of its own      the log gets what it lacks, and counts
//	none, or damaged     none, or names too little       damaged
//
// A segment without log and footer has no objects; the engine knows whether there were any, and
// then sets damage. If the header is damaged too, and the footer names more, the segment is
// damaged.
func (g *File) reconcile(ctx context.Context, fs vfs.FS, store uuid.UUID, hasLog bool) error {
	sure := g.repaired == nil // else the capacity is a guess, and a footer there may be data of a volume
	said := g.footer
	end := g.footerAtEnd(sure)
	g.footer = 0
	var bad *disk.CorruptError // of the log
	if hasLog {
		if err := g.openObjectLog(ctx, fs, store); err != nil && !disk.Damaged(err) {
			return err
		} else if err != nil {
			bad, g.objectLog = disk.AsCorrupt(err, ObjectLogName(g.ID), 0, "log"), nil
		}
	}
	lacks := missingFrom(g.objects, end.named)
	switch {
	case sure && end.shortenings > 0 && (bad != nil || end.shortenings > g.shortenings()):
		if bad == nil && hasLog {
			bad = g.badLog("it is older than the footer, from before dead objects were taken out of the list")
		}
		return g.openSealed(store, end.length, said, bad, hasLog)
	case bad == nil && g.shortened:
		return nil
	case len(lacks) == 0 || !sure: // the log names everything credible in the footer
		if bad != nil {
			g.damaged = bad
		} else if len(lacks) > 0 {
			g.damaged, g.repaired = g.repaired, nil
		}
		return nil
	case len(missingFrom(end.named, g.objects)) == 0:
		if bad == nil && hasLog {
			bad = g.badLog("it lacks %d objects that the footer names", len(lacks))
		}
		return g.openSealed(store, end.length, said, bad, hasLog)
	}
	return g.complete(lacks, bad)
}

// complete adds to the object list what only the footer names. bad is the damage of the log, or
// nil.
func (g *File) complete(lacks map[uint32]Object, bad *disk.CorruptError) error {
	for b, o := range lacks {
		if _, other := g.objects[b]; other { // which of them is right is unknown: the content decides
			delete(g.objects, b)
			bad = g.badLog("the log and the footer name different objects at block %d", b)
			continue
		}
		g.enter(o)
	}
	if bad == nil {
		objs := slices.Collect(maps.Values(lacks))
		err := g.objectLog.Append(EncodeObjects(objs))
		if err == nil {
			g.repaired = g.badLog("it lacked %d objects that the footer names", len(lacks))
			return nil
		}
		if !errors.Is(err, disk.ErrNoSpace) && !disk.Unreadable(err) {
			return err
		}
		bad = g.badLog("it lacks %d objects that the footer names", len(lacks))
	}
	g.damaged = bad
	return nil
}

// badLog returns an error about the object log.
func (g *File) badLog(format string, args ...any) *disk.CorruptError {
	return &disk.CorruptError{File: ObjectLogName(g.ID), Object: "log", Err: fmt.Errorf(format, args...)}
}

// openSealed treats the segment as sealed: its footer, of length bytes, is the object list. bad says
// what is wrong with the object log; nil: there is none. said is the length of the footer according
// to the header.
func (g *File) openSealed(store uuid.UUID, length, said int64, bad *disk.CorruptError, hasLog bool) error {
	if g.objectLog != nil {
		if err := g.objectLog.Close(); err != nil {
			return err
		}
	}
	g.objectLog, g.objects, g.chunks, g.others, g.shortened = nil, nil, 0, 0, false
	g.footer, g.outlived = length, hasLog
	if g.repaired = bad; bad == nil {
		g.repaired = &disk.CorruptError{File: Name(g.ID), Object: "segment header", Err: errors.New("it does not know of the footer")}
	}
	if said != length {
		if err := g.rewriteHeader(store); err != nil {
			return err
		}
	}
	g.damaged = g.readTrailer()
	return nil
}

// foundFooter is a whole footer behind a segment's data. The zero value is none.
type foundFooter struct {
	length      int64             // bytes
	named       map[uint32]Object // the objects that it names, by block
	shortenings int
}

// footerAtEnd looks for a whole footer behind the segment's data. Unless the capacity is sure, the
// end of the file tells where the footer begins.
func (g *File) footerAtEnd(sure bool) foundFooter {
	size, err := g.Data.Size()
	if err != nil {
		return foundFooter{}
	}
	at := File{ID: g.ID, Data: g.Data, Capacity: g.Capacity, footer: g.footer}
	switch {
	case !sure:
		t := make([]byte, TrailerSize)
		if n, _ := g.Data.ReadAt(t, max(size-TrailerSize, 0)); n < len(t) { // short, or an error: no trailer
			return foundFooter{}
		}
		at.footer = footerHint(t)
		at.Capacity = size - at.footer
	case at.footer == 0:
		at.footer = size - g.Capacity
	}
	if at.footer < TrailerSize || at.footer > maxFooter || at.Capacity < disk.BlockSize {
		return foundFooter{}
	}
	all, err := at.readFooter(make([]byte, at.footer))
	if err != nil {
		return foundFooter{}
	}
	objs, err := DecodeObjects(all)
	if err != nil {
		return foundFooter{}
	}
	named := make(map[uint32]Object, len(objs))
	for _, o := range objs {
		named[o.Block] = o
	}
	return foundFooter{at.footer, named, shorteningsIn(all)}
}

// missingFrom returns the objects of want that are not in have.
func missingFrom(have, want map[uint32]Object) map[uint32]Object {
	out := map[uint32]Object{}
	for b, o := range want {
		if have[b] != o {
			out[b] = o
		}
	}
	return out
}
