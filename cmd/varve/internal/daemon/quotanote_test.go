package daemon

import (
	"strings"
	"testing"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A quota below what the volume refers to, or may refer to, is set, and a note says so.
func TestQuotaNote(t *testing.T) {
	w := newWorld(t, "full")
	for _, c := range []struct {
		logical, tail, quota int64
		note                 string // words of it; "": none
	}{
		{logical: 100, quota: 200},
		{logical: 100, tail: 100, quota: 200},
		{logical: 300, tail: 100, quota: 200, note: "full already refers to 300 bytes, more than the quota of 200"},
		{logical: 100, tail: 200, quota: 200, note: "full may refer to 300 bytes when it has settled, more than the quota of 200"},
		{logical: 300, quota: 0},
	} {
		w.store.mu.Lock()
		w.store.volumes["full"] = objstore.VolumeInfo{Name: "full", Logical: c.logical, Tail: c.tail}
		w.store.mu.Unlock()
		got, err := w.c.SetVolume(t.Context(), "full", protocol.SetVolume{Quota: &c.quota})
		text := strings.Join(got.Notes, "; ")
		if err != nil || got.Quota != c.quota || !strings.Contains(text, c.note) || (text == "") != (c.note == "") {
			t.Errorf("quota %d of a volume with %d bytes and %d in its tail: %q, %v; want %q", c.quota, c.logical, c.tail, text, err, c.note)
		}
		if c.quota == 0 {
			continue
		}
		verify := true
		if got, err = w.c.SetVolume(t.Context(), "full", protocol.SetVolume{Verify: &verify}); err != nil || len(got.Notes) > 0 {
			t.Errorf("a change of something else says %q, %v", got.Notes, err)
		}
	}
}
