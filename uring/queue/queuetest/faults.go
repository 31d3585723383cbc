package queuetest

import (
	"math/rand/v2"
	"sync"
	"time"

	"varve/uring"
)

// Faults make secondaries short, or fail, on their way to the kernel: the kernel gets an entry with
// fewer bytes, or with a file that does not exist (EBADF). The zero Faults make none.
type Faults struct {
	mu       sync.Mutex
	short    float64
	fail     float64
	shortens int
	fails    int
	rnd      *rand.Rand
}

// Set makes the given parts, from 0 to 1, of all entries of secondaries short or failing from now
// on.
func (f *Faults) Set(short, fail float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.short, f.fail = short, fail
	if f.rnd == nil {
		f.rnd = rand.New(rand.NewPCG(1, 2))
	}
}

// Made is how many entries were made short, and how many failing.
func (f *Faults) Made() (short, failing int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shortens, f.fails
}

// NewRing is for queue.Options: it makes a ring whose secondaries meet the faults. A nil f makes
// none.
func (f *Faults) NewRing(o uring.Options) (uring.Ring, error) {
	r, err := uring.New(o)
	if err != nil || f == nil {
		return r, err
	}
	return &faultyRing{Ring: r, faults: f}, nil
}

// faultyRing changes entries before the kernel sees them.
type faultyRing struct {
	uring.Ring
	faults *Faults
	queued []*uring.SQE
}

func (r *faultyRing) GetSQE() *uring.SQE {
	s := r.Ring.GetSQE()
	if s != nil {
		r.queued = append(r.queued, s)
	}
	return s
}

func (r *faultyRing) Submit() (int, error) {
	r.spoil()
	return r.Ring.Submit()
}

func (r *faultyRing) SubmitAndWait(n uint32, m uring.WaitMode) error {
	r.spoil()
	return r.Ring.SubmitAndWait(n, m)
}

func (r *faultyRing) SubmitAndWaitTimeout(n uint32, d time.Duration) error {
	r.spoil()
	return r.Ring.SubmitAndWaitTimeout(n, d)
}

// sector is the unit of short transfers: files opened with O_DIRECT want no other.
const sector = 512

// spoil changes some of the secondaries among the entries that were queued since the last time.
func (r *faultyRing) spoil() {
	f := r.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range r.queued {
		if uring.UserData(s.UserData).Kind() != uring.KindSecondary || f.rnd == nil {
			continue
		}
		switch p := f.rnd.Float64(); {
		case p < f.fail:
			s.Flags, s.FD = 0, -1
			f.fails++
		case p < f.fail+f.short && s.Len > sector && s.Opcode != uring.IORING_OP_FALLOCATE:
			s.Len = sector * uint32(1+f.rnd.IntN(int(s.Len-1)/sector))
			f.shortens++
		}
	}
	r.queued = r.queued[:0]
}
