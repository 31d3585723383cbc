package objstore

import (
	"errors"
	"testing"
)

// One side of a volume is claimed at a time, by any number of users, until the last of them has
// given it up or closed.
func TestClaim(t *testing.T) {
	s, _, _, _ := scratchWorld(t)
	defer s.Close()
	open := func() *Volume {
		t.Helper()
		v, err := s.OpenVolume("a", "test")
		must(t, err)
		return v
	}
	device, live := open(), open()
	release, err := live.Claim(SideLive)
	must(t, err)
	again, err := live.Claim(SideLive)
	must(t, err)
	if _, err := device.Claim(SideDevice); !errors.Is(err, ErrInUse) {
		t.Errorf("claimed for a device while live is open for writing: %v", err)
	}
	release()
	release() // counts once
	if _, err := device.Claim(SideDevice); !errors.Is(err, ErrInUse) {
		t.Errorf("claimed for a device while live is open for writing once more: %v", err)
	}
	again()
	_, err = device.Claim(SideDevice)
	must(t, err)
	if _, err := live.Claim(SideLive); !errors.Is(err, ErrInUse) {
		t.Errorf("claimed for live while there is a device: %v", err)
	}
	must(t, device.Close())
	release, err = live.Claim(SideLive)
	must(t, err)
	must(t, live.Close())
	release() // after Close it has nothing to give up
	device = open()
	_, err = device.Claim(SideDevice)
	must(t, err)

	before := device.Changes()
	_, err = device.WriteAt(randomBytes(7, 512), 0)
	must(t, err)
	if device.Changes() == before {
		t.Error("a write is no change")
	}
	must(t, device.Close())
}
