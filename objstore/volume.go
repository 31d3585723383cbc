package objstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// Volume is a volume held open by one user. All users of a volume share one engine object, so that
// a write through one is read through the others at once. Safe for concurrent use.
type Volume struct {
	*volume
	user    string
	closed  atomic.Bool
	claimed [sides]int // of volume.claims; guarded by catalog.mu
}

// Close flushes the volume and closes it for this user.
func (v *Volume) Close() error {
	if v.closed.Swap(true) {
		return fmt.Errorf("volume %s: %w", v.Name(), ErrClosed)
	}
	err := v.Flush()
	v.s.catalog.unclaim(v)
	v.s.catalog.leave(v.volume, v.user)
	return err
}

// volume is the engine object of a volume.
type volume struct {
	s   *Store
	ref *refs.Volume // ID and block size don't change; the rest is guarded by catalog.mu

	name atomic.Pointer[string] // ref.Name, for readers; changes under catalog.mu
	size atomic.Int64           // ref.Size, for requests; changes under settleMu, catalog.mu and mu

	users    []string   // guarded by catalog.mu
	reserved string     // "deleted", "rolled back": it must not be opened meanwhile; guarded by catalog.mu
	claims   [sides]int // guarded by catalog.mu
	idleSlot time.Time  // when a snapshot was due last, and nothing had changed, by the policy clock; guarded by catalog.mu

	dropped atomic.Bool // deleted: settling stops
	verify  atomic.Bool // ref.Verify, for readers
	damage  atomic.Pointer[volumeDamage]

	attempts settleAttempts
	obstacle obstacle // under settleMu
	pins     atomic.Pointer[damagePins]

	counted map[merkle.Hash]int64 // chunks in subtrees that the oldest layer discards; under settleMu

	settleMu lockorder.IOMutex[lockorder.Settling]     // its holder settles layers, reclaims their room or drops them; taken before all others
	freezeMu lockorder.IOMutex[lockorder.Freeze]       // one freeze at a time
	commitMu lockorder.IOMutex[lockorder.Commit]       // one commit at a time; taken before mu
	durable  uint64                                    // records that are durable; changes under commitMu and mu
	rmw      lockorder.IOMutex[lockorder.PartialWrite] // one write of part of a sector at a time; taken before mu

	mu       lockorder.Mutex[lockorder.Volume]
	room     event    // fires when the tail has become shorter, a request has ended, or the volume is closed
	layers   []*layer // oldest first; the last one is active while writable
	writable bool
	closed   bool // the store was closed, or the volume deleted

	unjournaled bool // open, but there was no room for a journal
	extending   bool // the extender was asked for a window of the active layer's journal

	base          *base
	baseGen       uint64 // the generation that the base holds
	baseData      int64  // its bytes that are not holes
	limits        limits
	appendSegment *segment.File // where writes go
	dirty         []*segment.File
	pin           *segment.Pin
	namings       []*naming // snapshots that are being made
	appended      uint64    // records ever appended
	inflight      int       // writes reserved
	tail          int64     // bytes in layers
	ops           uint64    // requests, by which the pacer tells a busy volume
	partial       partial
	idleAt        time.Duration // the uptime since which it has been unused, with nothing to settle; 0: it is in use
	since         time.Duration // the uptime at which the active layer became non-empty; 0: empty

	stuckTail, stuckReserved int64 // bytes that setStuck has added to the account for this volume
}

func newVolume(s *Store, ref *refs.Volume, b *base) *volume {
	v := &volume{s: s, ref: ref, base: b, pin: segment.NewPin()}
	name := ref.Name
	v.name.Store(&name)
	v.verify.Store(ref.Verify)
	v.size.Store(ref.Size)
	s.objects.Deepen(b.root.Depth) // s.catalog.mu is held, or the store is being opened
	return v
}

// Name of the volume; it may change at any time.
func (v *volume) Name() string { return *v.name.Load() }

// ID is the volume's UUID, 16 bytes.
func (v *volume) ID() [16]byte { return v.ref.ID }

// Size in bytes. See Store.ResizeVolume.
func (v *volume) Size() int64 { return v.size.Load() }

// BlockSize is the logical block size in bytes.
func (v *volume) BlockSize() int { return v.ref.BlockSize }

func (v *volume) validateRange(off, length int64) error {
	if off < 0 || length <= 0 || off > v.Size()-length || (off|length)%SectorSize != 0 {
		return fmt.Errorf("range of %d bytes at %d: %w: want whole sectors within the %d bytes of %s", length, off, ErrInvalid, v.Size(), v.Name())
	}
	return nil
}

// Plan implements [Image].
func (v *volume) Plan(off int64, length int, p *Plan) error {
	if err := v.validateRange(off, int64(length)); err != nil {
		return err
	}
	if length > MaxRequest {
		return fmt.Errorf("plan of %d bytes: %w: at most %d", length, ErrInvalid, MaxRequest)
	}
	p.Pieces = p.Pieces[:0]
	from := uint64(off) / SectorSize
	v.mu.Lock()
	v.ops++
	err := v.openError()
	if err == nil {
		err = planLayers(v.layers, v.base, p, from, from+uint64(length)/SectorSize)
	}
	p.verifier = v.verifierFor(&v.base.root, off)
	if err == nil {
		p.pin = v.pin.Hold()
	}
	v.mu.Unlock()
	if err != nil {
		p.Pieces = p.Pieces[:0]
		return err
	}
	p.resolve()
	return nil
}

// Release implements [Image].
func (v *volume) Release(p *Plan) { p.release() }

func (p *Plan) release() {
	if p.pin != nil {
		p.pin.Release()
		p.pin = nil
	}
}

// Load implements [Image].
func (v *volume) Load(ctx context.Context, off int64, length int) error {
	return v.s.leaves.load(ctx, &v.mu, func() *base { return v.base }, off, int64(length))
}

func (v *volume) sweep(n int64) {
	v.mu.Lock()
	v.base.sweep(n)
	v.mu.Unlock()
}

// openError returns an error if the store was closed, or the volume deleted or damaged.
// REQUIRES: v.mu is held.
func (v *volume) openError() error {
	if v.closed {
		return fmt.Errorf("volume %s: %w", v.Name(), ErrClosed)
	}
	return v.damageError()
}

func (v *volume) active() *layer { return v.layers[len(v.layers)-1] }
