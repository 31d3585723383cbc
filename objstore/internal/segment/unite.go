package segment

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// The record of a segment that was not sealed, or whose sealing was cut off. Its directory names the objects; a footer
// that lies whole at the segment's capacity names all that there were when it was written, whatever the header says, for
// nothing but sealing writes there, and objects are never taken out of a record. So nothing is taken for unused that
// either of the two names.

// openRecord opens the directory, if there is one, and unites it with the footer, if there is one.
//
//	directory            footer                          then
//	good                 none, or names no more          the directory counts; what sealing was cut off goes on
//	good                 names more, and all of these    the segment is sealed; the directory is a leftover
//	none, or damaged     names all that can be read      the segment is sealed; the directory is a leftover
//	good                 each names some of its own      the directory gets what it lacks, and counts
//	none, or damaged     none, or names too little       damaged, if refs know of objects: see Store.checkDir
//
// Where the header is damaged too, and the footer names more, the segment is damaged.
func (g *File) openRecord(fs vfs.FS, store uuid.UUID, hasDir bool) error {
	sure := g.mended == nil // else the capacity is a guess, and a footer there may be what somebody has written to a volume
	said := g.footer
	length, named := g.footerAtEnd(sure)
	g.footer = 0
	var bad *disk.CorruptError // of the directory
	if hasDir {
		if err := g.openDir(fs, store); err != nil && !disk.Damaged(err) {
			return err
		} else if err != nil {
			bad, g.objectLog = disk.AsCorrupt(err, ObjectLogName(g.ID), 0, "log"), nil
		}
	}
	lacks := missingFrom(g.objects, named)
	switch {
	case len(lacks) == 0 || !sure: // of the footer the directory knows all that can be believed
		if bad != nil {
			g.damaged = bad
		} else if len(lacks) > 0 {
			g.damaged, g.mended = g.mended, nil
		}
		return nil
	case len(missingFrom(named, g.objects)) == 0:
		return g.keepSealed(store, length, said, hasDir, bad, len(lacks))
	}
	for b, o := range lacks {
		if _, other := g.objects[b]; other { // nobody knows which of them is right: the content tells
			delete(g.objects, b)
			bad = &disk.CorruptError{File: ObjectLogName(g.ID), Object: "log", Err: fmt.Errorf("it and the footer name different objects at block %d", b)}
			continue
		}
		g.note(o)
	}
	if bad == nil {
		objs := slices.Collect(maps.Values(lacks))
		if err := g.objectLog.Append(EncodeObjects(objs)); err == nil {
			g.mended = &disk.CorruptError{File: ObjectLogName(g.ID), Object: "log", Err: fmt.Errorf("it lacked %d objects that the footer names", len(lacks))}
			return nil
		} else if !errors.Is(err, disk.ErrNoSpace) && !disk.Unreadable(err) {
			return err
		}
		bad = &disk.CorruptError{File: ObjectLogName(g.ID), Object: "log", Err: fmt.Errorf("it lacks %d objects that the footer names", len(lacks))}
	}
	g.damaged = bad
	return nil
}

// keepSealed takes the segment for sealed: its footer names all that its directory does, and lacks more, or has no
// directory at all. said is the length of the footer by the header.
func (g *File) keepSealed(store uuid.UUID, length, said int64, hasDir bool, bad *disk.CorruptError, lacks int) error {
	if g.objectLog != nil {
		if err := g.objectLog.Close(); err != nil {
			return err
		}
	}
	g.objectLog, g.objects, g.chunks, g.nodes = nil, nil, 0, 0
	g.footer, g.outlived = length, hasDir
	switch {
	case bad != nil:
		g.mended = bad
	case hasDir:
		g.mended = &disk.CorruptError{File: ObjectLogName(g.ID), Object: "log", Err: fmt.Errorf("it lacks %d objects that the footer names", lacks)}
	default:
		g.mended = &disk.CorruptError{File: Name(g.ID), Object: "segment header", Err: errors.New("it does not know of the footer")}
	}
	if said != length {
		if err := g.rewriteHeader(store); err != nil {
			return err
		}
	}
	g.damaged = g.readTrailer()
	return nil
}

// rewriteHeader makes a header anew that was found out. Where there is no room for it, the next opening finds it out again.
func (g *File) rewriteHeader(store uuid.UUID) error {
	err := g.writeHeader(store, g.footer)
	if err == nil {
		err = g.Data.Datasync()
	}
	if errors.Is(disk.SpaceError(err), disk.ErrNoSpace) || disk.Unreadable(err) {
		return nil
	}
	return err
}

// footerAtEnd gives the length in bytes of a footer that lies whole behind the segment's data, and the objects that it
// names, by block; none: 0. Where the header does not tell the capacity (sure), the file's end tells where a footer begins.
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
		at.footer = footerLength(int(le.Uint32(t[16:])))
		at.Capacity = size - at.footer
	case at.footer == 0:
		at.footer = size - g.Capacity
	}
	if at.footer < TrailerSize || at.footer > 1<<32 || at.Capacity < disk.BlockSize {
		return 0, nil
	}
	entries, err := at.ReadFooter()
	if err != nil {
		return 0, nil
	}
	objs, err := DecodeObjects(entries)
	if err != nil {
		return 0, nil
	}
	named := make(map[uint32]Object, len(objs))
	for _, o := range objs {
		named[o.Block] = o
	}
	return at.footer, named
}

// footerLength is how many bytes a footer of so many objects has.
func footerLength(objects int) int64 {
	return disk.RoundUp(int64(objects)*ObjectSize+TrailerSize, disk.BlockSize)
}

// missingFrom gives the objects of want that have does not name.
func missingFrom(have, want map[uint32]Object) map[uint32]Object {
	out := map[uint32]Object{}
	for b, o := range want {
		if have[b] != o {
			out[b] = o
		}
	}
	return out
}

// hasOutlivedLog reports whether the object log is still there and does not count any more: the footer names all that it
// does. The caller removes it, when the footer is durable.
func (g *File) Outlived() bool { return g.outlived }
