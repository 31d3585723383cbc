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
// Only a shortened object log (File.Shrink) correctly names less than the footer: what is left
// after dead objects were removed from the list. If it is whole, it alone counts. If it is damaged
// and the footer is there, nothing was punched yet, as the footer goes before anything is punched.

// reconcile opens the object log, if there is one, and compares it with the footer, if there is
// one:
//
//	object log           footer                          result
//	good, shortened      any                             the log counts; the footer goes, and sealing continues
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
	length, named := g.footerAtEnd(sure)
	g.footer = 0
	var bad *disk.CorruptError // of the log
	if hasLog {
		if err := g.openObjectLog(ctx, fs, store); err != nil && !disk.Damaged(err) {
			return err
		} else if err != nil {
			bad, g.objectLog = disk.AsCorrupt(err, ObjectLogName(g.ID), 0, "log"), nil
		}
	}
	lacks := missingFrom(g.objects, named)
	switch {
	case bad == nil && g.shortened:
		return nil
	case len(lacks) == 0 || !sure: // the log names everything credible in the footer
		if bad != nil {
			g.damaged = bad
		} else if len(lacks) > 0 {
			g.damaged, g.repaired = g.repaired, nil
		}
		return nil
	case len(missingFrom(named, g.objects)) == 0:
		return g.openSealed(store, length, said, hasLog, bad, len(lacks))
	}
	return g.complete(lacks, bad)
}

// complete adds to the object list what only the footer names. bad is the damage of the log, or
// nil.
func (g *File) complete(lacks map[uint32]Object, bad *disk.CorruptError) error {
	wrong := func(format string, args ...any) *disk.CorruptError {
		return &disk.CorruptError{File: ObjectLogName(g.ID), Object: "log", Err: fmt.Errorf(format, args...)}
	}
	for b, o := range lacks {
		if _, other := g.objects[b]; other { // which of them is right is unknown: the content decides
			delete(g.objects, b)
			bad = wrong("the log and the footer name different objects at block %d", b)
			continue
		}
		g.enter(o)
	}
	if bad == nil {
		objs := slices.Collect(maps.Values(lacks))
		err := g.objectLog.Append(EncodeObjects(objs))
		if err == nil {
			g.repaired = wrong("it lacked %d objects that the footer names", len(lacks))
			return nil
		}
		if !errors.Is(err, disk.ErrNoSpace) && !disk.Unreadable(err) {
			return err
		}
		bad = wrong("it lacks %d objects that the footer names", len(lacks))
	}
	g.damaged = bad
	return nil
}

// openSealed treats the segment as sealed: its footer, of length bytes, names everything in the
// object log, which lacks some objects, is damaged (bad) or is missing. said is the length of the
// footer according to the header.
func (g *File) openSealed(store uuid.UUID, length, said int64, hasLog bool, bad *disk.CorruptError, lacks int) error {
	if g.objectLog != nil {
		if err := g.objectLog.Close(); err != nil {
			return err
		}
	}
	g.objectLog, g.objects, g.chunks, g.others, g.shortened = nil, nil, 0, 0, false
	g.footer, g.outlived = length, hasLog
	switch {
	case bad != nil:
		g.repaired = bad
	case hasLog:
		g.repaired = &disk.CorruptError{File: ObjectLogName(g.ID), Object: "log", Err: fmt.Errorf("it lacks %d objects that the footer names", lacks)}
	default:
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

// footerAtEnd returns the length in bytes of a whole footer behind the segment's data, and the
// objects that it names, by block; 0 if there is none. Unless the capacity is sure, the end of the
// file tells where the footer begins.
func (g *File) footerAtEnd(sure bool) (int64, map[uint32]Object) {
	size, err := g.Data.Size()
	if err != nil {
		return 0, nil
	}
	at := File{ID: g.ID, Data: g.Data, Capacity: g.Capacity, footer: g.footer}
	switch {
	case !sure:
		t := make([]byte, TrailerSize)
		if n, _ := g.Data.ReadAt(t, max(size-TrailerSize, 0)); n < len(t) { // short, or an error: no trailer
			return 0, nil
		}
		at.footer = footerHint(t)
		at.Capacity = size - at.footer
	case at.footer == 0:
		at.footer = size - g.Capacity
	}
	if at.footer < TrailerSize || at.footer > maxFooter || at.Capacity < disk.BlockSize {
		return 0, nil
	}
	all, err := at.readFooter(make([]byte, at.footer))
	if err != nil {
		return 0, nil
	}
	objs, err := DecodeObjects(all)
	if err != nil {
		return 0, nil
	}
	named := make(map[uint32]Object, len(objs))
	for _, o := range objs {
		named[o.Block] = o
	}
	return at.footer, named
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
