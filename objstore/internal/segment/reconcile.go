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

// The object list of a segment that was not sealed, or whose sealing was cut off. Its object log names objects; a footer that
// lies whole at the segment's capacity names all that there were when it was written, whatever the header says: nothing but
// sealing writes there. So nothing counts as unused that either of the two names.
//
// One kind of object log says less than the footer, and is right: a shortened one (File.Shrink), which names what is left
// after dead objects were taken out of the list. Where it is whole, it counts alone. Where it is damaged and the footer is
// there, nothing was punched yet: the footer goes before anything is punched.

// reconcile opens the object log, if there is one, and holds it against the footer, if there is one:
//
//	object log           footer                          result
//	good, shortened      any                             the log counts; the footer goes, and sealing goes on
//	good                 none, or names no more          the log counts; sealing, if it was cut off, goes on
//	good                 names more, and all of these    sealed; the log has been outlived
//	none, or damaged     names all that can be read      sealed; the log has been outlived
//	good                 each names some of its own      the log gets what it lacks, and counts
//	none, or damaged     none, or names too little       damaged
//
// Without log and footer the segment is merely without objects; the engine, which knows whether there were any, sets damage.
// Where the header is damaged too, and the footer names more, the segment is damaged.
func (g *File) reconcile(ctx context.Context, fs vfs.FS, store uuid.UUID, hasLog bool) error {
	sure := g.repaired == nil // else the capacity is a guess, and a footer there may be what a user has written to a volume
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
	case len(lacks) == 0 || !sure: // the log names all of the footer that can be believed
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

// complete adds to the object list what the log lacks, as the footer names it. bad is what is wrong with the log, or nil.
func (g *File) complete(lacks map[uint32]Object, bad *disk.CorruptError) error {
	wrong := func(format string, args ...any) *disk.CorruptError {
		return &disk.CorruptError{File: ObjectLogName(g.ID), Object: "log", Err: fmt.Errorf(format, args...)}
	}
	for b, o := range lacks {
		if _, other := g.objects[b]; other { // nobody knows which of them is right: the content tells
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

// openSealed takes the segment for sealed: its footer, of length bytes, names all that the object log does, which lacks some,
// is damaged (bad) or is not there. said is the length of the footer by the header.
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

// footerAtEnd returns the length in bytes of a footer that lies whole behind the segment's data, and the objects that it
// names, by block; 0 if there is none. Where the header does not tell the capacity (sure), the file's end tells where the
// footer begins.
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
	all, err := at.readFooter(at.footer)
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

// missingFrom returns the objects of want that have does not name.
func missingFrom(have, want map[uint32]Object) map[uint32]Object {
	out := map[uint32]Object{}
	for b, o := range want {
		if have[b] != o {
			out[b] = o
		}
	}
	return out
}
