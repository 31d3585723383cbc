package objstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"varve/objstore/internal/disk"
)

func pinDone(p *pin) bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// A pin is done only when every plan is released that was made before it was replaced, whichever
// pin that counts on.
func TestPinsAreCumulative(t *testing.T) {
	v := &volume{pin: newPin()}
	take := func() *pin { v.pin.n.Add(1); return v.pin }
	var pins, plans []*pin
	for range 4 {
		plans = append(plans, take())
		pins = append(pins, v.replacePin())
	}
	late := take() // after the last replacement: nobody waits for it
	for _, i := range []int{3, 1, 2} {
		plans[i].release()
		for j, p := range pins {
			if pinDone(p) {
				t.Fatalf("pin %d is done while a plan of pin 0 is held", j)
			}
		}
	}
	plans[0].release()
	for j, p := range pins {
		if !pinDone(p) {
			t.Errorf("pin %d is not done, and every plan made before it was replaced is released", j)
		}
	}
	if pinDone(late) {
		t.Error("the current pin is done")
	}
	late.release()
}

// A plan reads what it was made for until it is released, while the volume that it is of is
// deleted: its data counts on an older pin than the one that the deletion replaces.
func TestPlanHeldOverDeletion(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	data := randomBytes(2, 4096)
	r.write(v, randomBytes(1, 4096), 0)
	gen, err := v.freeze()
	must(t, err)
	r.write(v, data, 8192)
	var p Plan // as a check makes it, which looks at the tail of a volume that nobody has open
	must(t, v.Plan(8192, 4096, &p))
	must(t, r.s.settler.waitSettled(ctx, v.volume, gen))
	for replaced := false; !replaced; time.Sleep(time.Millisecond) { // reclaiming the settled layer waits for the plan
		v.mu.Lock()
		replaced = v.pin != p.pin
		v.mu.Unlock()
	}
	must(t, v.Close())
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := r.s.DeleteVolume(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the deletion of a volume does not wait for a plan that is held: %v", err)
	}
	got := make([]byte, len(data))
	must(t, readPieces(&p, got))
	if string(got) != string(data) {
		t.Errorf("a plan that is held reads something else: zeroes %v", disk.AllZero(got))
	}
	v.Release(&p)
}
