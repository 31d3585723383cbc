package target

import (
	"errors"
	"testing"

	"varve/uring/queue"
)

func TestLimits(t *testing.T) {
	good := Limits{Size: 1 << 20, MaxIO: 64 << 10, Queues: 2}
	good.EnsureDefaults()
	if err := good.Validate(); err != nil || good.BlockSize != SectorSize {
		t.Errorf("%+v: %v", good, err)
	}
	for name, change := range map[string]func(*Limits){
		"no size":        func(l *Limits) { l.Size = 0 },
		"odd size":       func(l *Limits) { l.Size += 100 },
		"odd block":      func(l *Limits) { l.BlockSize = 1024 },
		"odd alignment":  func(l *Limits) { l.DMAAlign = 3 },
		"odd request":    func(l *Limits) { l.MaxIO = 4096 + 512 },
		"negative MaxIO": func(l *Limits) { l.MaxIO = -4096 },
		"negative count": func(l *Limits) { l.Queues = -1 },
	} {
		l := good
		change(&l)
		if err := l.Validate(); !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, k := range [][3]int{{4, 0, 4}, {4, 2, 2}, {1, 2, 1}} {
		if got := Bound(k[0], k[1]); got != k[2] {
			t.Errorf("%d of at most %d: %d", k[0], k[1], got)
		}
	}
}
