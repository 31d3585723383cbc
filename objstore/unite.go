package objstore

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
func (g *segment) openRecord(fs vfs.FS, store uuid.UUID, hasDir bool) error {
	sure := g.mended == nil // else the capacity is a guess, and a footer there may be what somebody has written to a volume
	said := g.footer
	length, named := g.footerAtEnd(sure)
	g.footer = 0
	var bad *CorruptError // of the directory
	if hasDir {
		if err := g.openDir(fs, store); err != nil && !disk.Damaged(err) {
			return err
		} else if err != nil {
			bad, g.dir = disk.AsCorrupt(err, dirName(g.id), 0, "log"), nil
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
			bad = &CorruptError{File: dirName(g.id), Object: "log", Err: fmt.Errorf("it and the footer name different objects at block %d", b)}
			continue
		}
		g.note(o)
	}
	if bad == nil {
		objs := slices.Collect(maps.Values(lacks))
		if err := g.dir.Append(encodeObjects(objs)); err == nil {
			g.mended = &CorruptError{File: dirName(g.id), Object: "log", Err: fmt.Errorf("it lacked %d objects that the footer names", len(lacks))}
			return nil
		} else if !errors.Is(err, ErrNoSpace) && !disk.Unreadable(err) {
			return err
		}
		bad = &CorruptError{File: dirName(g.id), Object: "log", Err: fmt.Errorf("it lacks %d objects that the footer names", len(lacks))}
	}
	g.damaged = bad
	return nil
}

// keepSealed takes the segment for sealed: its footer names all that its directory does, and lacks more, or has no
// directory at all. said is the length of the footer by the header.
func (g *segment) keepSealed(store uuid.UUID, length, said int64, hasDir bool, bad *CorruptError, lacks int) error {
	if g.dir != nil {
		if err := g.dir.Close(); err != nil {
			return err
		}
	}
	g.dir, g.objects, g.chunks, g.nodes = nil, nil, 0, 0
	g.footer, g.outlived = length, hasDir
	switch {
	case bad != nil:
		g.mended = bad
	case hasDir:
		g.mended = &CorruptError{File: dirName(g.id), Object: "log", Err: fmt.Errorf("it lacks %d objects that the footer names", lacks)}
	default:
		g.mended = &CorruptError{File: segmentName(g.id), Object: "segment header", Err: errors.New("it does not know of the footer")}
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
func (g *segment) rewriteHeader(store uuid.UUID) error {
	_, err := g.file.WriteAt(g.header(store), 0)
	if err == nil {
		err = g.file.Datasync()
	}
	if errors.Is(disk.SpaceError(err), ErrNoSpace) || disk.Unreadable(err) {
		return nil
	}
	return err
}

// footerAtEnd gives the length in bytes of a footer that lies whole behind the segment's data, and the objects that it
// names, by block; none: 0. Where the header does not tell the capacity (sure), the file's end tells where a footer begins.
func (g *segment) footerAtEnd(sure bool) (int64, map[uint32]object) {
	size, err := g.file.Size()
	if err != nil {
		return 0, nil
	}
	at := segment{id: g.id, file: g.file, capacity: g.capacity, footer: g.footer}
	switch {
	case !sure:
		t := make([]byte, trailerSize)
		if n, _ := g.file.ReadAt(t, max(size-trailerSize, 0)); n < len(t) { // short, or an error: no trailer
			return 0, nil
		}
		at.footer = footerLength(int(le.Uint32(t[16:])))
		at.capacity = size - at.footer
	case at.footer == 0:
		at.footer = size - g.capacity
	}
	if at.footer < trailerSize || at.footer > 1<<32 || at.capacity < disk.BlockSize {
		return 0, nil
	}
	entries, err := at.readFooter()
	if err != nil {
		return 0, nil
	}
	objs, err := decodeObjects(entries)
	if err != nil {
		return 0, nil
	}
	named := make(map[uint32]object, len(objs))
	for _, o := range objs {
		named[o.block] = o
	}
	return at.footer, named
}

// footerLength is how many bytes a footer of so many objects has.
func footerLength(objects int) int64 {
	return disk.RoundUp(int64(objects)*entrySize+trailerSize, disk.BlockSize)
}

// missingFrom gives the objects of want that have does not name.
func missingFrom(have, want map[uint32]object) map[uint32]object {
	out := map[uint32]object{}
	for b, o := range want {
		if have[b] != o {
			out[b] = o
		}
	}
	return out
}

// dropOutlived removes the directory of a segment whose footer names all.
func (s *Store) dropOutlived(g *segment) error {
	// A process that was killed may have written the footer, and not synced it.
	if err := g.file.Datasync(); err != nil {
		s.log.Warn("a directory that is not needed stays behind", "file", dirName(g.id), "error", err)
		return nil
	}
	if err := removeLeftover(s.fs, s.log, dirName(g.id)); err != nil {
		return err
	}
	g.outlived = false
	return s.fs.SyncDir(segmentDir)
}
