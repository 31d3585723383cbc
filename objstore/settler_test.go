package objstore

import (
	"testing"
	"testing/synctest"
	"time"
)

// What recovery has frozen settles a moment after the opening, when devices are served again; at
// once for a caller that waits.
func TestSettlingAfterOpening(t *testing.T) {
	for _, wait := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{})
			v := r.volume("a", 16<<20)
			r.write(v, randomBytes(1, 8192), 0)
			r.end("killed")
			r.o.SettleDelay = time.Hour
			r.open(nil)
			tail := func() int64 { return r.s.space.tails.Load() }
			opened := time.Now()
			if wait {
				must(t, r.s.Settle(t.Context()))
				if d := time.Since(opened); d > openingGrace/2 {
					t.Errorf("settled %v after the opening, for a caller that waits", d)
				}
			} else {
				time.Sleep(openingGrace - settlerTick)
				if tail() == 0 {
					t.Error("settled at once")
				}
				time.Sleep(3 * settlerTick)
			}
			if n := tail(); n > 0 {
				t.Errorf("%d bytes have not settled", n)
			}
			must(t, r.s.Close())
		})
	}
}
