package segment

import "testing"

func done(p *Pin) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// A pin is done only when every reader has ended that began before the pin was replaced, whichever
// pin that reader counts on.
func TestPinsAreCumulative(t *testing.T) {
	var owner Pins
	var pins, held []*Pin
	for range 4 {
		held = append(held, owner.Hold())
		pins = append(pins, owner.Replace())
	}
	late := owner.Hold() // after the last replacement: nobody waits for it
	for _, i := range []int{3, 1, 2} {
		held[i].Release()
		for j, p := range pins {
			if done(p) {
				t.Fatalf("pin %d is done while a reader counts on pin 0", j)
			}
		}
	}
	held[0].Release()
	for j, p := range pins {
		if !done(p) {
			t.Errorf("pin %d is not done, and every reader that began before it was replaced has ended", j)
		}
	}
	if done(late) {
		t.Error("the current pin is done")
	}
	late.Release()
}

// Replacing a pin that nobody has held, or replacing it twice, waits for nobody.
func TestReplaceWithoutReaders(t *testing.T) {
	var owner Pins
	if first, second := owner.Replace(), owner.Replace(); !done(first) || !done(second) {
		t.Error("a pin without readers is not done when it was replaced")
	}
}
