package daemon

import (
	"errors"
	"strings"
	"testing"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A volume's device gets the size that its volume has. One that can't is named, with the reason,
// and the volume has grown all the same. An attached volume does not shrink.
func TestResizeAttached(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "a")
	r := protocol.ResizeVolume{Size: 2 << 30}
	if v, err := w.c.ResizeVolume(ctx, "a", r); err != nil || v.Size != 2<<30 || len(v.Notes) > 0 {
		t.Errorf("without a device: %+v, %v", v, err)
	}
	a := w.attach(t, "a")
	dev := w.ublk.device("a")
	r.Size = 3 << 30
	if v, err := w.c.ResizeVolume(ctx, "a", r); err != nil || v.Size != 3<<30 || len(v.Notes) > 0 || len(v.Attached) != 1 {
		t.Errorf("attached: %+v, %v", v, err)
	}
	dev.mu.Lock()
	if dev.size != 3<<30 {
		t.Errorf("the device got %d bytes", dev.size)
	}
	dev.resized = errors.New("UBLK_F_UPDATE_SIZE is missing")
	dev.mu.Unlock()
	r.Size = 4 << 30
	v, err := w.c.ResizeVolume(ctx, "a", r)
	if err != nil || v.Size != 4<<30 || len(v.Notes) != 1 || !strings.Contains(v.Notes[0], a.Device) ||
		!strings.Contains(v.Notes[0], "UBLK_F_UPDATE_SIZE") || !strings.Contains(v.Notes[0], "attached again") {
		t.Errorf("on a kernel without it: %+v, %v", v, err)
	}
	_, err = w.c.ResizeVolume(ctx, "a", protocol.ResizeVolume{Size: 1 << 30, Shrink: true})
	wantError(t, err, objstore.ErrInUse, a.Device, "detach it first")
	_, err = w.c.ResizeVolume(ctx, "nope", r)
	wantError(t, err, objstore.ErrNotFound, "nope")
}
