package objstore

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/google/uuid"

	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// superblock is the superblock of an open store. What changes in it while the store is open are the
// UUID by which the store is known, and the features that it uses.
type superblock struct {
	ID        uuid.UUID // in all files
	ChunkSize int       // bytes

	fs   vfs.FS
	gate gate

	mu      lockorder.IOMutex[lockorder.Superblock] // held while the files are replaced
	current atomic.Pointer[refs.Superblock]         // what both files hold; changes under mu
}

// openSuperblock reads the superblock, and returns the damage that it has repaired.
func openSuperblock(fs vfs.FS, gate gate, readOnly bool) (*superblock, []*CorruptError, error) {
	sb, repaired, err := refs.ReadSuperblock(fs, readOnly)
	if err != nil {
		return nil, nil, err
	}
	s := &superblock{ID: sb.ID, ChunkSize: sb.ChunkSize, fs: fs, gate: gate}
	s.current.Store(sb)
	return s, repaired, nil
}

// emptyRoot returns the root of an image of zeroes of a size in bytes.
func (s *superblock) emptyRoot(size int64) merkle.Root { return merkle.EmptyRoot(size, s.ChunkSize) }

// known returns the UUID by which the store is known.
func (s *superblock) known() string { return s.current.Load().Known().String() }

// need makes it durable that the store uses the features, if it does not yet: from then on, a varve
// that does not know one of them refuses the store. The caller does this before it makes the first
// bytes durable that such a varve would misread. When ctx ends while another goroutine replaces the
// files, nothing has changed. After any other error the files may have the features or not, and the
// caller must not write those bytes.
func (s *superblock) need(ctx context.Context, features refs.Features) error {
	if s.current.Load().Features.Has(features) {
		return nil
	}
	if err := s.mu.LockContext(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	sb := *s.current.Load()
	sb.Features = sb.Features.Union(features)
	if err := s.replaceLocked(&sb); err != nil {
		return fmt.Errorf("note the use of %v in the superblock: %w", features.Names(), err)
	}
	return nil
}

// rename has the store known by another UUID.
func (s *superblock) rename(id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb := *s.current.Load()
	sb.KnownAs = id
	return s.replaceLocked(&sb)
}

// replaceLocked replaces the files, durably.
// REQUIRES: mu is held.
func (s *superblock) replaceLocked(sb *refs.Superblock) error {
	if err := s.gate.writeError(); err != nil {
		return err
	}
	if err := sb.Write(s.fs); err != nil {
		return s.gate.spaceError(err)
	}
	s.current.Store(sb)
	return nil
}
