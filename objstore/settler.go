package objstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	paceBytes    = 2 << 20                // settling looks for foreground I/O this often
	pacePause    = 10 * time.Millisecond  // and gives way to it for so long
	paceLongest  = 200 * time.Millisecond // but goes on after this
	settlerTick  = 250 * time.Millisecond
	frozenLayers = 32 // above it, a snapshot waits for settling
)

// settler is the goroutine that settles, one layer at a time.
func (s *Store) settler(ctx context.Context) {
	defer s.housekeepers.Done()
	tick := time.NewTicker(settlerTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.clock.Store(int64(s.uptime()))
			_ = s.catalog.takeBack() // it is tried again
			s.lookForRoom()
		case <-s.kick:
		}
		s.settleDue(ctx)
	}
}

// lookForRoom notes whether there is less room left than the tails take, and may take to settle: settling gives it
// back. Writes that wait for room that did not come are let go.
func (s *Store) lookForRoom() {
	room, err := s.room()
	s.tight.Store(err == nil && room < s.tails.Load()+s.debt.Load())
	if err != nil {
		return
	}
	s.roomSeen.Store(room)
	s.watchRoom(room, time.Now())
	s.countStuck()
	if s.tails.Load() <= s.stuckTails.Load() && !s.returning() {
		s.leaveRoom()
	}
}

// settleDue settles what is frozen, and freezes and settles what has waited long enough. A volume that can't
// settle doesn't keep the others from it.
func (s *Store) settleDue(ctx context.Context) {
	if s.writeError() != nil {
		return // who waits is told so
	}
	for _, v := range s.catalog.all() {
		if !s.retryDue(v) {
			continue
		}
		try := s.beginTry(v)
		err := s.settleVolume(ctx, v)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			v.settleFails.Store(0)
			v.mu.Lock()
			v.unstick()
			v.mu.Unlock()
		case !s.catalog.gone(v): // else it was deleted meanwhile
			s.settleFailed(v, try, fmt.Errorf("volume %s: %w", v.ref.name, err))
		}
	}
}

func (s *Store) settleVolume(ctx context.Context, v *volume) error {
	v.activateLater()
	if s.due(v) {
		if _, err := v.freeze(); err != nil {
			return err
		}
	}
	for v.frozen() > 0 {
		err := s.settleLayer(ctx, v)
		if serr := s.sealFilled(); err == nil {
			err = serr
		}
		if errors.Is(err, errCounting) { // the other volumes first
			s.kickSettler()
			return nil
		}
		if err != nil {
			return err
		}
	}
	return v.rest()
}

// frozen counts the layers that wait to settle.
func (v *volume) frozen() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.layers)
	if v.writable {
		n--
	}
	return n
}

// due reports whether the volume's active layer should settle.
func (s *Store) due(v *volume) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.writable || !v.active().fresh {
		return false
	}
	if s.pressing(v) {
		return true
	}
	d := s.opts.SettleDelay
	return d >= 0 && s.uptime()-v.since > d
}

// pressing reports whether settling may not wait for a quiet moment: the tail is long. Under v.mu.
func (s *Store) pressing(v *volume) bool {
	if v.tail > s.opts.TailSoft || s.crowded.Load() || s.tight.Load() && v.tail > 0 {
		return true
	}
	n := len(v.layers)
	return v.writable && v.layers[n-1].journal.count > v.layers[n-1].journal.max/2
}

// pace gives way to requests before n more bytes settle: it waits while volumes are busy, unless settling v
// presses. It looks at every paceBytes only, since the clock and the volumes' locks cost time too.
func (s *Store) pace(ctx context.Context, v *volume, n int) error {
	if s.pacedBytes += n; s.pacedBytes < paceBytes {
		return nil
	}
	s.pacedBytes = 0
	if err := ctx.Err(); err != nil {
		return err
	}
	for waited := time.Duration(0); waited < paceLongest; waited += pacePause {
		ops := s.requests()
		busy := ops != s.pacedOps
		s.pacedOps = ops
		v.mu.Lock()
		pressing := s.pressing(v) || s.wanted.Load() > 0
		v.mu.Unlock()
		if !busy || pressing {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pacePause):
		}
	}
	return nil
}

// requests counts the requests of all volumes.
func (s *Store) requests() uint64 {
	var n uint64
	for _, v := range s.catalog.all() {
		v.mu.Lock()
		n += v.ops
		v.mu.Unlock()
	}
	return n
}

func (s *Store) kickSettler() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// wakeAll lets every writer that waits for room look again.
func (s *Store) wakeAll() {
	go func() { // callers may hold a volume's lock
		for _, v := range s.catalog.all() {
			v.mu.Lock()
			v.room.Broadcast()
			v.mu.Unlock()
		}
	}()
}

// Settle returns when everything written before the call has settled, but for what a damaged chunk keeps in the tail,
// which is an error.
func (s *Store) Settle(ctx context.Context) error {
	for _, v := range s.catalog.all() {
		gen, err := v.freeze()
		if err != nil {
			return err
		}
		if err := s.waitSettled(ctx, v, gen); err != nil {
			return err
		}
	}
	if err := s.waitReclaimed(ctx, nil); err != nil {
		return err
	}
	var kept []error
	for _, v := range s.catalog.all() {
		kept = append(kept, v.keptError())
	}
	return errors.Join(kept...)
}

// waitSettled waits until the volume's base holds gen.
func (s *Store) waitSettled(ctx context.Context, v *volume, gen uint64) error {
	s.wanted.Add(1)
	defer s.wanted.Add(-1)
	v.wanted.Add(1)
	defer v.wanted.Add(-1)
	v.settleErr.Store(nil)
	for {
		v.mu.Lock()
		done := v.baseGen >= gen
		v.mu.Unlock()
		if done || s.catalog.gone(v) {
			return nil
		}
		if err := v.damageError(); err != nil {
			return err
		}
		if err := s.writeError(); err != nil {
			return err
		}
		if p := v.settleErr.Load(); p != nil {
			return *p
		}
		s.kickSettler()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return ErrClosed
		case <-time.After(2 * time.Millisecond):
		}
	}
}
