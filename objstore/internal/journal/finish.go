package journal

import (
	"varve/objstore/failpoint"
	"varve/objstore/vfs"
)

// Finish completes the generation after its replay, durably, and returns its journal, which is
// closed: what was replayed counts from now on, after a power cut too, and nothing else in the file
// does. The data of the replayed records must be durable.
func (rp *Replay) Finish(fs vfs.FS) (*File, error) {
	f, err := fs.Open(rp.Name())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	inode, err := f.Identity()
	if err != nil {
		return nil, err
	}
	// A final commit that covers less is of a recovery that did not trust the cache, and was
	// killed. Nothing was built on that, and this one may know better.
	complete := rp.Final && (rp.Trusted && rp.Covered >= rp.Last || rp.Covered+1 >= rp.Whole)
	if complete { // else the old header stays until the commit is there: another opening must know what this one did
		h := header(rp.raw[:headerSize])
		h.setWriter(inode)
		h.setClosing(0)
	}
	size, err := rp.rewrite(f)
	if err != nil {
		return nil, err
	}
	done := &File{id: rp.ID, final: true, count: rp.Whole}
	if complete {
		if err := f.Datasync(); err != nil {
			return nil, err
		}
		return done, nil
	}
	if err := wipe(f, int64(len(rp.raw)), size); err != nil {
		return nil, err
	}
	failpoint.Here(failpoint.RecoverWiped)
	if err := rp.commit(f, inode); err != nil {
		return nil, err
	}
	return done, nil
}

// rewrite writes again what was read, and returns the size of the file. What was read may be in the
// page cache only, and no longer known there as something to be written: the process that wrote it
// was killed before it could sync, or its sync has failed. The zeroes between header and records
// are left out: where the file system has smaller blocks they are a hole, and the disk may be full.
func (rp *Replay) rewrite(f vfs.File) (size int64, err error) {
	if _, err := f.WriteAt(rp.raw[:headerSize], 0); err != nil {
		return 0, err
	}
	if _, err := f.WriteAt(rp.raw[headerBlock:], headerBlock); err != nil {
		return 0, err
	}
	if size, err = f.Size(); err != nil {
		return 0, err
	}
	// A file without room for more is taken for damaged by the next opening.
	if least := max(headerBlock+WindowSize, int64(len(rp.raw))+2*RecordSize); size < least {
		return least, f.Truncate(least)
	}
	return size, nil
}

// commit writes the commit that ends the generation, and a header that says that it counts. The
// commit goes first: without it, the next recovery must come to the same decision as this one.
func (rp *Replay) commit(f vfs.File, inode vfs.Identity) error {
	h := newHeader(rp.ID, finished)
	h.setDurable(rp.Whole + 1)
	h.setWriter(inode)
	covers := rp.Covered
	if rp.Trusted {
		covers = rp.Whole
	}
	b := make([]byte, RecordSize)
	r := Record{Type: Commit, Flags: flagFinal, Sector: uint64(covers)}
	r.encode(b, h.seed()+uint32(rp.Whole))
	if _, err := f.WriteAt(b, int64(len(rp.raw))); err != nil {
		return err
	}
	if err := f.Datasync(); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverCommit)
	if _, err := f.WriteAt(h, 0); err != nil {
		return err
	}
	return f.Datasync()
}

// Distrust is what File.Distrust is, for a journal that is replayed.
func (rp *Replay) Distrust(fs vfs.FS) {
	if !rp.Trusted {
		return
	}
	rp.Trusted, rp.why = false, "a sync has failed"
	rp.Truncate(rp.Whole)
	f, err := fs.Open(rp.Name())
	if err != nil {
		return
	}
	defer f.Close()
	writeDistrust(f, header(rp.raw[:headerSize]))
}

// wipe writes zeroes over [from, to), durably.
func wipe(f vfs.File, from, to int64) error {
	zero := make([]byte, 64<<10)
	for from < to {
		n := min(int64(len(zero)), to-from)
		if _, err := f.WriteAt(zero[:n], from); err != nil {
			return err
		}
		from += n
	}
	return f.Datasync()
}
