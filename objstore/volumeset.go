package objstore

import (
	"context"
	"fmt"
	"time"

	"varve/objstore/internal/refs"
)

// VolumeChange says what is to be changed of a volume. Nil leaves a setting as it is.
type VolumeChange struct {
	// Verify decides whether settled chunks of the volume, and of its snapshots, are verified against
	// their hashes as they are read, by whatever way. It is a property of the volume rather than of a
	// device: the device, the mount and the daemon that takes over must not differ in what they return.
	Verify *bool
	// Quota and Reserve are as of [Limits]. A quota below what the volume has refuses whatever would
	// make the volume grow. A reservation needs the room that it promises: ErrNoSpace if there is less.
	Quota, Reserve *int64
	// Retention gets the present policy and returns the new one. It may not block. What a new policy
	// does not keep goes with the next state of the volume, and the next automatic snapshot, or with
	// PruneHistory.
	Retention func(Retention) Retention
}

// SetVolume changes settings of a volume, all of them or none, durably and with one record. They
// take effect at once. It blocks.
func (s *Store) SetVolume(ctx context.Context, name string, c VolumeChange) (VolumeInfo, error) {
	var room int64
	if c.Reserve != nil && *c.Reserve > 0 {
		var err error
		if room, err = s.space.room(); err != nil {
			return VolumeInfo{}, fmt.Errorf("ask for free space: %w", err)
		}
	}
	var v *volume
	var recs []refs.Record
	err := s.catalog.update(ctx, func() (_ []refs.Record, err error) {
		if v, err = s.catalog.volume(name); err != nil {
			return nil, err
		}
		recs, err = v.settings(c, room-s.space.reserved.Load())
		return recs, err
	}, func() {
		for i := range recs {
			v.tookSetting(&recs[i])
		}
	})
	if err != nil {
		return VolumeInfo{}, err
	}
	if c.Quota != nil || c.Reserve != nil {
		s.space.lookAgain()
		s.space.freed.fire() // writes that wait look again
	}
	return s.catalog.info(v), nil
}

// settings returns the records of what a change changes, where others leave room bytes.
// REQUIRES: catalog.mu is held.
func (v *volume) settings(c VolumeChange, room int64) (recs []refs.Record, err error) {
	ref := v.ref
	if c.Verify != nil && *c.Verify != ref.Verify {
		recs = append(recs, refs.Record{Op: refs.OpVerify, ID: ref.ID, Verify: *c.Verify})
	}
	if c.Quota != nil || c.Reserve != nil {
		was := Limits{ref.Quota, ref.Reserve}
		l := was.changed(c)
		if err := v.mayLimit(l, room); err != nil {
			return nil, fmt.Errorf("volume %s: %w", v.Name(), err)
		}
		if l != was {
			recs = append(recs, refs.Record{Op: refs.OpLimits, ID: ref.ID, Quota: l.Quota, Reserve: l.Reserve})
		}
	}
	if c.Retention == nil {
		return recs, nil
	}
	if ref.Scratch() {
		return nil, fmt.Errorf("volume %s: %w: a scratch volume has no policy", v.Name(), ErrInvalid)
	}
	p := refs.RetentionPolicy(c.Retention(Retention(ref.Policy)))
	if err := p.Check(); err != nil || p == ref.Policy {
		return recs, err
	}
	return append(recs, refs.Record{Op: refs.OpPolicy, ID: ref.ID, Policy: &p}), nil
}

// tookSetting lets a record of settings take effect on the volume, beyond what refs says.
// REQUIRES: catalog.mu is held.
func (v *volume) tookSetting(rec *refs.Record) {
	switch rec.Op {
	case refs.OpVerify:
		v.verify.Store(rec.Verify)
	case refs.OpLimits:
		v.setLimits(Limits{rec.Quota, rec.Reserve})
	case refs.OpPolicy:
		v.idleSlot = time.Time{}
	default:
	}
}

// SetVerify is SetVolume of Verify alone.
func (s *Store) SetVerify(ctx context.Context, name string, on bool) (VolumeInfo, error) {
	return s.SetVolume(ctx, name, VolumeChange{Verify: &on})
}

// SetLimits is SetVolume of Quota and Reserve alone.
func (s *Store) SetLimits(ctx context.Context, name string, quota, reserve *int64) (VolumeInfo, error) {
	return s.SetVolume(ctx, name, VolumeChange{Quota: quota, Reserve: reserve})
}

// SetRetention is SetVolume of Retention alone.
func (s *Store) SetRetention(ctx context.Context, name string, change func(Retention) Retention) (VolumeInfo, error) {
	return s.SetVolume(ctx, name, VolumeChange{Retention: change})
}
