package objstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// Init makes a store in dir, which must be empty or not exist yet. It takes effect with the
// superblock, which comes last.
func Init(dir string, o InitOptions) error {
	if o.ChunkSize == 0 {
		o.ChunkSize = defaultChunkSize
	}
	if err := disk.CheckChunkSize(o.ChunkSize); err != nil {
		return err
	}
	if err := checkMaxSize(o.MaxSize); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	if err := vfs.NoCOW(dir); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	files, above := vfs.OS(dir), vfs.OS(filepath.Dir(filepath.Clean(dir)))
	defer func() { _ = errors.Join(files.Close(), above.Close()) }() // what was made is durable
	if err := initFS(files, dir, o); err != nil {
		return err
	}
	return above.SyncDir(".")
}

func initFS(fs vfs.FS, dir string, o InitOptions) error {
	names, err := fs.List(".")
	if err != nil {
		return err
	}
	for _, n := range names {
		if n != "lost+found" {
			return fmt.Errorf("make store in %s: %w: it has %s", dir, ErrStoreExists, n)
		}
	}
	sb := &refs.Superblock{ChunkSize: o.ChunkSize, ID: uuid.New(), Created: time.Now()}
	for _, d := range []string{segment.Dir, journal.Dir, refs.Dir, IndexDir} {
		if err := fs.Mkdir(d); err != nil {
			return err
		}
	}
	held, err := lock(fs) // makes the file, for which a disk that is full has no room
	if err != nil {
		return err
	}
	if err := held.Close(); err != nil {
		return err
	}
	var recs []refs.Record
	if o.MaxSize > 0 {
		recs = append(recs, refs.Record{Op: refs.OpMaxSize, Size: o.MaxSize})
	}
	if err := refs.Create(fs, sb.ID, recs...); err != nil {
		return err
	}
	if err := fs.SyncDir(refs.Dir); err != nil {
		return err
	}
	if err := fs.SyncDir("."); err != nil { // no superblock without what it stands for
		return err
	}
	return sb.Create(fs)
}
