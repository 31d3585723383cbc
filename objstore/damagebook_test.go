package objstore

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"varve/objstore/internal/refs"
)

// Damage is logged as it is found, and remembered for a check: what was repaired, what was lost, and
// foreign files, each of them once. An error that is no damage is only logged.
func TestDamageBook(t *testing.T) {
	var out strings.Builder
	b := &damageBook{log: slog.New(slog.NewTextHandler(&out, nil))}
	fixed := &CorruptError{File: "fixed", Err: errors.New("flipped")}
	gone := &CorruptError{File: "gone", Err: errors.New("missing")}
	b.repaired(fixed)
	b.lost(errors.Join(errors.New("open"), gone))
	b.lost(errors.New("no damage"))
	for range 2 {
		b.stray("foreign")
	}
	if len(b.repairs) != 1 || b.repairs[0] != fixed || len(b.losses) != 1 || b.losses[0] != gone {
		t.Errorf("repaired %v, lost %v", b.repairs, b.losses)
	}
	if len(b.strays) != 1 || b.strays[0] != "foreign" {
		t.Errorf("foreign files: %v", b.strays)
	}
	for _, want := range []string{"fixed", "gone", "no damage", "foreign"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, out.String())
		}
	}
}

// One refused volume holds the segments of earlier processes, for its journals may refer to them.
func TestDamageBookRefuses(t *testing.T) {
	b := &damageBook{log: slog.New(slog.DiscardHandler)}
	name := "v"
	v := &volume{ref: &refs.Volume{Name: name}}
	v.name.Store(&name)
	if b.hold.Load() || v.damageError() != nil {
		t.Fatal("damaged from the start")
	}
	b.refuse(v, &volumeDamage{err: &CorruptError{File: "journal", Err: errors.New("flipped")}})
	if !b.hold.Load() || v.damageError() == nil {
		t.Errorf("segments are held: %v; the volume is refused with %v", b.hold.Load(), v.damageError())
	}
}
