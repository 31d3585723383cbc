package segment

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// Add appends objects to the object log of an open segment. Their bytes must be durable already;
// their entries are durable when Add returns. After disk.ErrNoSpace and disk.Transient errors the
// log has exactly the objects that Listed returns. Held over I/O: listMu.
func (g *File) Add(fs vfs.FS, store uuid.UUID, objs []Object) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	if g.objectLog == nil {
		if err := g.createObjectLog(fs, store); err != nil {
			return err
		}
	}
	for payload := range slices.Chunk(objs, record.MaxPayload/ObjectSize) {
		if err := g.objectLog.Append(EncodeObjects(payload)); err != nil {
			return err
		}
		g.listAll(payload)
	}
	return nil
}

// createObjectLog creates an empty object log, with a durable name.
// REQUIRES: listMu is held.
func (g *File) createObjectLog(fs vfs.FS, store uuid.UUID) error {
	name := ObjectLogName(g.ID)
	// A log that an earlier call could neither complete nor remove is empty.
	if err := fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := record.Create(fs, name, ObjectLogID(store, g.ID))
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.ObjectLogMade)
	if err := fs.SyncDir(Dir); err != nil {
		return errors.Join(err, l.Close(), fs.Remove(name)) // nothing is in it yet
	}
	g.mu.Lock()
	g.objectLog = l
	g.mu.Unlock()
	return nil
}

// openObjectLog reads the object log.
// REQUIRES: g is not shared yet.
func (g *File) openObjectLog(ctx context.Context, fs vfs.FS, store uuid.UUID) error {
	g.objects = map[uint32]Object{}
	var err error
	g.objectLog, err = record.Open(ctx, fs, []string{ObjectLogName(g.ID)}, ObjectLogID(store, g.ID), true, func(payload []byte) error {
		objs, err := DecodeObjects(payload)
		for _, o := range objs {
			g.enter(o)
		}
		if len(objs) > 0 && payload[flagsOffset]&shortenedFlag != 0 {
			g.shortened, g.replaced = true, shorteningsIn(payload)
		}
		return err
	})
	return err
}

// RemoveObjectLog removes the object log of a segment without objects, durably. Held over I/O:
// listMu.
func (g *File) RemoveObjectLog(fs vfs.FS) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	if g.objectLog == nil {
		return nil
	}
	if err := g.objectLog.Close(); err != nil {
		return err
	}
	g.mu.Lock()
	g.objectLog = nil
	g.mu.Unlock()
	if err := fs.Remove(ObjectLogName(g.ID)); err != nil {
		return err
	}
	return fs.SyncDir(Dir)
}

// listAll enters objects into the list of an open segment.
// REQUIRES: listMu is held.
func (g *File) listAll(objs []Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.objects == nil {
		g.objects = make(map[uint32]Object, len(objs))
	}
	for _, o := range objs {
		g.enter(o)
	}
}

// enter enters one object.
// REQUIRES: listMu and mu are held, or g is not shared yet.
func (g *File) enter(o Object) {
	if _, again := g.objects[o.Block]; again {
		return
	}
	g.objects[o.Block] = o
	if o.Kind == merkle.KindChunk {
		g.chunks += int64(o.Length)
	} else {
		g.others += int64(o.Length)
	}
}

// Sealed reports whether the segment is immutable.
func (g *File) Sealed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.footer > 0
}

// FooterSize returns the length of the footer in bytes, 0 of an open segment.
func (g *File) FooterSize() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.footer
}

// HasObjectLog reports whether there is an object log that counts.
func (g *File) HasObjectLog() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.objectLog != nil
}

// ObjectLogSize returns the length of the object log in bytes, 0 if there is none. It waits for
// listMu, which is held over I/O.
func (g *File) ObjectLogSize() int64 {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	if g.objectLog == nil {
		return 0
	}
	return g.objectLog.Size()
}

// Outlived reports whether the segment was opened with an object log whose objects the footer names
// all. The caller removes the log once the footer is durable.
func (g *File) Outlived() bool { return g.outlived }

// Blank reports whether the segment has no object and no object log.
func (g *File) Blank() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.objects) == 0 && g.objectLog == nil && g.footer == 0
}

// Stored returns the bytes of the objects: of chunks, and of all others.
func (g *File) Stored() (chunks, others int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.chunks, g.others
}

// Listed looks a block up in the object list in memory. It returns the object there, if the segment
// is open; whether the segment is sealed, so that the footer has to be read; and why the list
// cannot be relied on, or nil.
func (g *File) Listed(block uint32) (o Object, ok, sealed bool, damage error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok = g.objects[block]
	return o, ok, g.footer > 0, g.damaged
}

// EachOpen calls f for each object of an open segment, in no order, under mu: f must not call
// methods of g. The results are those of Listed.
func (g *File) EachOpen(f func(Object)) (sealed bool, damage error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.objects {
		f(o)
	}
	return g.footer > 0, g.damaged
}

// OpenObjects returns the objects of an open segment in order of block. For a sealed one it returns
// none.
func (g *File) OpenObjects() []Object {
	g.mu.Lock()
	defer g.mu.Unlock()
	return inOrder(g.objects)
}

// OpenCount returns the number of objects of an open segment, 0 for a sealed one.
func (g *File) OpenCount() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int64(len(g.objects))
}

// Objects returns the objects in order of block. It reads the footer of a sealed segment; an error
// is a disk.CorruptError.
func (g *File) Objects() ([]Object, error) {
	for {
		if objs, open := g.objectsIfOpen(); open {
			return objs, nil
		}
		all, err := g.ReadFooter()
		if errors.Is(err, ErrListChanged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return DecodeObjects(all)
	}
}

// objectsIfOpen returns the objects of a segment that is open.
func (g *File) objectsIfOpen() ([]Object, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.footer > 0 {
		return nil, false
	}
	return inOrder(g.objects), true
}

// Damaged reports whether the object list cannot be relied on. Such a segment is neither sealed,
// retired nor punched.
func (g *File) Damaged() bool { return g.Damage() != nil }

// Damage returns why the object list cannot be relied on, or nil.
func (g *File) Damage() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.damaged
}

// SetDamage records why the object list cannot be relied on, and reports whether the segment was
// undamaged before.
func (g *File) SetDamage(err error) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	first = g.damaged == nil
	g.damaged = err
	return first
}

// Repaired returns the damage that Open found and repaired, or nil.
func (g *File) Repaired() *disk.CorruptError { return g.repaired }

// Check reads header, footer and object log again, and calls found for each that is damaged. Before
// that it calls expect for each file that must be there; none of them is removed by Seal meanwhile.
// Check returns os.ErrClosed if the segment was closed, and ctx's error if that has ended. Held
// over I/O: listMu.
func (g *File) Check(ctx context.Context, store uuid.UUID, expect func(file string), found func(error)) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	expect(Name(g.ID))
	if g.objectLog != nil {
		expect(ObjectLogName(g.ID))
	}
	b := make([]byte, HeaderSize)
	n, err := g.Data.ReadAt(b, 0)
	if n == len(b) {
		_, err = DecodeHeader(b, g.ID, store)
	}
	if errors.Is(err, os.ErrClosed) {
		return os.ErrClosed
	}
	if err != nil {
		found(disk.AsCorrupt(err, Name(g.ID), 0, "segment header"))
	}
	switch {
	case g.footer > 0:
		if _, err := g.ReadFooter(); err != nil {
			found(err)
		}
	case g.objectLog != nil:
		if err := g.objectLog.VerifyCopy(ctx, 0); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			found(err)
		}
	}
	return nil
}
