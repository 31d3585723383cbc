package maintenance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
)

const (
	magic   = "varveMT\x00"
	version = 1

	offVersion   = 8
	offLength    = 12
	offStore     = 16
	offEvery     = 32
	offScrubRate = 40
	offGCRate    = 48
	offRound     = 56
	offFlags     = 60
	offBegun     = 64
	offVerified  = 72
	offUptime    = 80
	offScrub     = 88
	offRunCount  = 116
	offCollected = 120
	offRuns      = 144

	runSize      = 24
	checksumSize = 4

	flagUnfinished = 1
	flagScheduled  = 2
	flagDamaged    = 1
)

var le = binary.LittleEndian

// Settings are what an administrator has asked for. The zero value is the default.
type Settings struct {
	ScrubEvery  time.Duration // whole seconds; 0: never
	ScrubRate   int64         // bytes per second; 0: no limit
	CollectRate int64         // bytes per second; 0: no limit
}

// Pass is a check of everything that has not come to its end.
type Pass struct {
	Begun     time.Time
	Bytes     int64 // verified so far
	Scheduled bool  // the schedule began it
}

// Scrub is a check of everything that has come to its end.
type Scrub struct {
	Begun, Ended time.Time
	Bytes        int64 // verified
	Damaged      int   // damages that were found, and not repaired
}

// Collection is a collection that has come to its end.
type Collection struct {
	Begun, Ended time.Time
	Freed        int64 // bytes
}

// Run is a range of segments that were verified in one round.
type Run struct {
	First, Last uint32 // IDs of segments, inclusive
	Round       uint32
	Damaged     bool      // damage was found in it
	At          time.Time // whole seconds; the earliest of them
}

// State is the content of the file. The zero value is that of a store without one.
type State struct {
	Settings  Settings
	Round     uint32        // the number of the newest check
	Pass      *Pass         // that has not come to its end, of number Round; nil: none
	Uptime    time.Duration // whole seconds that the store was open since the last scrub ended
	Scrubbed  Scrub         // zero: never
	Collected Collection    // zero: never
	Runs      []Run         // in order, not overlapping
}

// Encode returns the file of a store.
func (s *State) Encode(store uuid.UUID) []byte {
	b := make([]byte, offRuns+len(s.Runs)*runSize+checksumSize)
	copy(b, magic)
	le.PutUint32(b[offVersion:], version)
	le.PutUint32(b[offLength:], uint32(len(b)))
	copy(b[offStore:], store[:])
	le.PutUint64(b[offEvery:], uint64(s.Settings.ScrubEvery/time.Second))
	le.PutUint64(b[offScrubRate:], uint64(s.Settings.ScrubRate))
	le.PutUint64(b[offGCRate:], uint64(s.Settings.CollectRate))
	le.PutUint32(b[offRound:], s.Round)
	if s.Pass != nil {
		flags := uint32(flagUnfinished)
		if s.Pass.Scheduled {
			flags |= flagScheduled
		}
		le.PutUint32(b[offFlags:], flags)
		putTime(b[offBegun:], s.Pass.Begun)
		le.PutUint64(b[offVerified:], uint64(s.Pass.Bytes))
	}
	le.PutUint64(b[offUptime:], uint64(s.Uptime/time.Second))
	putTime(b[offScrub:], s.Scrubbed.Begun)
	putTime(b[offScrub+8:], s.Scrubbed.Ended)
	le.PutUint64(b[offScrub+16:], uint64(s.Scrubbed.Bytes))
	le.PutUint32(b[offScrub+24:], uint32(s.Scrubbed.Damaged))
	le.PutUint32(b[offRunCount:], uint32(len(s.Runs)))
	putTime(b[offCollected:], s.Collected.Begun)
	putTime(b[offCollected+8:], s.Collected.Ended)
	le.PutUint64(b[offCollected+16:], uint64(s.Collected.Freed))
	for i, r := range s.Runs {
		r.encode(b[offRuns+i*runSize:])
	}
	sum := len(b) - checksumSize
	le.PutUint32(b[sum:], disk.Checksum(b[:sum]))
	return b
}

func (r *Run) encode(b []byte) {
	le.PutUint32(b, r.First)
	le.PutUint32(b[4:], r.Last)
	le.PutUint32(b[8:], r.Round)
	if r.Damaged {
		le.PutUint32(b[12:], flagDamaged)
	}
	putTime(b[16:], r.At)
}

// decode returns the state in the file of a store.
func decode(b []byte, store uuid.UUID) (*State, error) {
	if len(b) < offRuns+checksumSize {
		return nil, fmt.Errorf("truncated to %d bytes, want at least %d", len(b), offRuns+checksumSize)
	}
	if string(b[:offVersion]) != magic {
		return nil, errors.New("no varve magic")
	}
	sum := len(b) - checksumSize
	if got, want := disk.Checksum(b[:sum]), le.Uint32(b[sum:]); got != want {
		return nil, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	if v := le.Uint32(b[offVersion:]); v != version {
		return nil, fmt.Errorf("%w: version %d, this varve reads version %d", disk.ErrVersion, v, version)
	}
	if n := le.Uint32(b[offLength:]); int64(n) != int64(len(b)) {
		return nil, fmt.Errorf("%d bytes, want %d", len(b), n)
	}
	if id := uuid.UUID(b[offStore:offEvery]); id != store {
		return nil, fmt.Errorf("of store %v, want %v", id, store)
	}
	n := int64(le.Uint32(b[offRunCount:]))
	if want := offRuns + n*runSize + checksumSize; int64(len(b)) != want {
		return nil, fmt.Errorf("%d bytes with %d runs, want %d", len(b), n, want)
	}
	s := &State{}
	if err := s.decodeFields(b); err != nil {
		return nil, err
	}
	return s, s.decodeRuns(b[offRuns:sum])
}

func (s *State) decodeFields(b []byte) (err error) {
	s.Settings.ScrubRate, s.Settings.CollectRate = int64(le.Uint64(b[offScrubRate:])), int64(le.Uint64(b[offGCRate:]))
	s.Round = le.Uint32(b[offRound:])
	s.Scrubbed = Scrub{
		Begun: getTime(b[offScrub:]), Ended: getTime(b[offScrub+8:]),
		Bytes: int64(le.Uint64(b[offScrub+16:])), Damaged: int(le.Uint32(b[offScrub+24:])),
	}
	s.Collected = Collection{
		Begun: getTime(b[offCollected:]), Ended: getTime(b[offCollected+8:]), Freed: int64(le.Uint64(b[offCollected+16:])),
	}
	if s.Settings.ScrubEvery, err = getDuration(b[offEvery:]); err != nil {
		return err
	}
	if s.Uptime, err = getDuration(b[offUptime:]); err != nil {
		return err
	}
	if flags := le.Uint32(b[offFlags:]); flags&flagUnfinished != 0 {
		s.Pass = &Pass{
			Begun: getTime(b[offBegun:]), Bytes: int64(le.Uint64(b[offVerified:])), Scheduled: flags&flagScheduled != 0,
		}
	}
	for _, n := range []int64{s.Settings.ScrubRate, s.Settings.CollectRate, s.Scrubbed.Bytes, s.Collected.Freed} {
		if n < 0 {
			return errors.New("a number of bytes is out of range")
		}
	}
	return nil
}

func (s *State) decodeRuns(b []byte) error {
	next := int64(0) // the least ID that the next run may begin with
	for ; len(b) > 0; b = b[runSize:] {
		r := Run{
			First: le.Uint32(b), Last: le.Uint32(b[4:]), Round: le.Uint32(b[8:]),
			Damaged: le.Uint32(b[12:])&flagDamaged != 0, At: getTime(b[16:]),
		}
		if int64(r.First) < next || r.Last < r.First {
			return fmt.Errorf("run of segments %08x to %08x is out of order", r.First, r.Last)
		}
		next = int64(r.Last) + 1
		s.Runs = append(s.Runs, r)
	}
	return nil
}

func putTime(b []byte, t time.Time) {
	if !t.IsZero() {
		le.PutUint64(b, uint64(t.Unix()))
	}
}

func getTime(b []byte) time.Time {
	n := int64(le.Uint64(b))
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

func getDuration(b []byte) (time.Duration, error) {
	n := le.Uint64(b)
	if n > uint64(longest/time.Second) {
		return 0, fmt.Errorf("%d seconds are out of range", n)
	}
	return time.Duration(n) * time.Second, nil
}

// longest is the longest time in whole seconds that a time.Duration holds.
const longest = 1<<63 - 1
