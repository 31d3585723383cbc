package vfs

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/queuethread"
)

// Passing reports whether err means that the machine was short of descriptors or memory at that
// moment: the operation was not done, and says nothing about the file. An error of a sync is never
// passing, as it is unknown what the sync did.
func Passing(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// How often an operation is tried. Those on names may wait in between, 127 ms in all; those on
// files may be on the way of a request, and do not.
const (
	nameTries = 8
	fileTries = 3
)

// Patient tries again what has failed with a Passing error, but for a file's sync. A store's files
// are all behind it, so that it also says of every operation that it may block
// (queuethread.Blocks).
func Patient(fs FS) FS { return patientFS{fs} }

type patientFS struct{ FS }

// named repeats an operation on names.
func named(do func() error) error {
	queuethread.Blocks("a file operation")
	err := do()
	for i := 1; i < nameTries && Passing(err); i++ {
		time.Sleep(time.Millisecond << (i - 1))
		err = do()
	}
	return err
}

// filed repeats an operation on an open file.
func filed(do func() error) error {
	queuethread.Blocks("a file operation")
	err := do()
	for i := 1; i < fileTries && Passing(err); i++ {
		err = do()
	}
	return err
}

func patient(f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return patientFile{f}, nil
}

func (p patientFS) Create(name string) (f File, err error) {
	err = named(func() (err error) { f, err = p.FS.Create(name); return err })
	return patient(f, err)
}

func (p patientFS) Open(name string) (f File, err error) {
	err = named(func() (err error) { f, err = p.FS.Open(name); return err })
	return patient(f, err)
}

func (p patientFS) Remove(name string) error {
	return named(func() error { return p.FS.Remove(name) })
}

func (p patientFS) Rename(oldname, newname string) error {
	return named(func() error { return p.FS.Rename(oldname, newname) })
}

func (p patientFS) Mkdir(name string) error {
	return named(func() error { return p.FS.Mkdir(name) })
}

func (p patientFS) List(name string) (names []string, err error) {
	err = named(func() (err error) { names, err = p.FS.List(name); return err })
	return names, err
}

// SyncDir may be tried again, where a file's sync may not: names are in the file system's journal,
// which does not forget what it could not write.
func (p patientFS) SyncDir(name string) error {
	return named(func() error { return p.FS.SyncDir(name) })
}

func (p patientFS) Space() (total, free int64, err error) {
	err = filed(func() (err error) { total, free, err = p.FS.Space(); return err })
	return total, free, err
}

func (p patientFS) Used(name string) (n int64, err error) {
	err = filed(func() (err error) { n, err = p.FS.Used(name); return err })
	return n, err
}

type patientFile struct{ File }

func (p patientFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = filed(func() (err error) { n, err = p.File.ReadAt(b, off); return err })
	return n, err
}

func (p patientFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = filed(func() (err error) { n, err = p.File.WriteAt(b, off); return err })
	return n, err
}

func (p patientFile) Size() (n int64, err error) {
	err = filed(func() (err error) { n, err = p.File.Size(); return err })
	return n, err
}

func (p patientFile) Truncate(size int64) error {
	return filed(func() error { return p.File.Truncate(size) })
}

func (p patientFile) Allocate(off, length int64) error {
	return filed(func() error { return p.File.Allocate(off, length) })
}

func (p patientFile) Reserve(off, length int64) error {
	return filed(func() error { return p.File.Reserve(off, length) })
}

func (p patientFile) Punch(off, length int64) error {
	return filed(func() error { return p.File.Punch(off, length) })
}

func (p patientFile) Map(off int64, length int) (b []byte, err error) {
	err = filed(func() (err error) { b, err = p.File.Map(off, length); return err })
	return b, err
}

func (p patientFile) Prefault(b []byte) {
	queuethread.Blocks("a file operation")
	p.File.Prefault(b)
}

func (p patientFile) Datasync() error {
	queuethread.Blocks("a file operation")
	return p.File.Datasync()
}

func (p patientFile) Close() error {
	queuethread.Blocks("a file operation")
	return p.File.Close()
}
