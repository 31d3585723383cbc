package daemon

import (
	"path/filepath"
	"strings"
	"testing"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func TestMounts(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	if err := w.c.Mount(t.Context(), protocol.Mount{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	wantError(t, w.c.Mount(t.Context(), protocol.Mount{Dir: dir}), objstore.ErrExists, dir)
	for bad, word := range map[string]string{
		w.dir: "in the store", filepath.Dir(w.dir): "hide the store", dir + "/none": "no such file", "relative": "absolute",
	} {
		err := w.c.Mount(t.Context(), protocol.Mount{Dir: bad})
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("mount at %s: %v, want %q", bad, err, word)
		}
	}
	m := w.mounter.mounts[dir]
	m.busy = true
	wantError(t, w.c.Unmount(t.Context(), protocol.Unmount{Dir: dir}), protocol.ErrBusy, dir)
	s := w.d.Release(t.Context(), false)
	if !m.forced || len(s.Unmounted) != 1 || len(s.Notes) != 1 {
		t.Errorf("released: %+v, by force: %v", s, m.forced)
	}
	wantError(t, w.c.Unmount(t.Context(), protocol.Unmount{Dir: dir}), objstore.ErrNotFound, dir)
}
