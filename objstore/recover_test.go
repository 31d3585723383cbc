package objstore

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"varve/objstore/internal/journal"
)

// One flipped bit in a journal must not silently take what was flushed behind it.
func TestJournalDamageIsNamed(t *testing.T) {
	for _, after := range []string{"kill", "power cut"} {
		r := newRig(t, Options{})
		v := r.volume("a", 16<<20)
		for i := range 4 {
			r.write(v, randomBytes(uint64(i+1), 4096), int64(i)*4096)
			must(t, v.Flush())
		}
		name := v.active().journal.Name()
		if after == "kill" {
			r.mem = r.mem.Kill()
		} else {
			r.mem = r.mem.PowerCut(rand.New(rand.NewPCG(1, 2)))
		}
		_ = r.s.Close()
		f, err := r.mem.Open(name)
		must(t, err)
		var b [1]byte
		_, err = f.ReadAt(b[:], journal.Offset(0)+9)
		must(t, err)
		b[0] ^= 4
		_, err = f.WriteAt(b[:], journal.Offset(0)+9)
		must(t, err)
		must(t, f.Close())
		if after == "power cut" {
			r.o.Boot = "next boot"
		}
		r.o.FS = r.mem
		r.open(nil)
		_, err = r.s.OpenVolume("a", "test")
		must(t, r.s.Close())
		var c *CorruptError
		if !errors.As(err, &c) || c.File != name || c.Offset != journal.Offset(0) {
			t.Errorf("after a %s: %v, want the damaged record of %s", after, err, name)
		}
	}
}

// The log says what has become of writes that were not flushed, and why, in the words of what is
// known: that a process was killed is no power cut.
func TestReplayIsLogged(t *testing.T) {
	for _, c := range []struct{ name, boot, mount, want string }{
		{"kill", "boot", "mount", `unflushed=kept`},
		{"kill and remount", "boot", "other", `unflushed="dropped: it is of another mount"`},
		{"power cut", "next boot", "mount", `unflushed="dropped: it is of another boot"`},
		{"failed sync", "boot", "mount", `unflushed="dropped: a sync has failed"`},
	} {
		var log bytes.Buffer
		r := newRig(t, Options{Boot: "boot", Mount: "mount", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		v := r.volume("a", 1<<20)
		r.write(v, randomBytes(1, 4096), 0)
		must(t, v.Flush())
		r.write(v, randomBytes(2, 4096), 4096)
		if c.name == "failed sync" {
			v.layers[0].journal.Distrust()
		}
		r.o.Mount = c.mount
		must(t, r.reopened(r.mem.Kill(), c.boot))
		if !strings.Contains(log.String(), c.want) || strings.Contains(log.String(), "power") {
			t.Errorf("%s: the log does not say %s:\n%s", c.name, c.want, log.String())
		}
		log.Reset()
		must(t, r.reopened(r.mem.Kill(), c.boot)) // before anything has settled
		if want := `unflushed="none: the generation was complete"`; !strings.Contains(log.String(), want) {
			t.Errorf("%s, killed once more: the log does not say %s:\n%s", c.name, want, log.String())
		}
	}
}

// The size of a journal that has grown may be lost with a power cut, while records are not: that is
// no damage.
func TestJournalGrownAndCut(t *testing.T) {
	r := newRig(t, Options{JournalRecords: 4 * journal.WindowRecords, TailSoft: 1 << 40, TailHard: 1 << 40})
	v := r.volume("a", 1<<30)
	r.write(v, randomBytes(1, 4096), 0)
	must(t, v.Flush())
	for i := range int64(journal.WindowRecords + 100) {
		must(t, v.Zero(1<<20+i*512, 512))
	}
	name := v.active().journal.Name()
	mem := r.mem.Kill()
	f, err := mem.Open(name)
	must(t, err)
	must(t, f.Truncate(journal.Offset(0)+journal.WindowSize)) // all of the first window was written back
	must(t, f.Close())
	for _, boot := range []string{"next boot", "the one after"} {
		must(t, r.reopened(mem, boot))
		r.undamaged("grown journal")
		v = r.volume("a", 0)
		wantRead(t, v, 0, randomBytes(1, 4096))
		must(t, v.Close())
		mem = r.mem.Kill()
	}
}

// A generation that others were built on was not simply never written.
func TestEmptyGenerationBeforeOthers(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 4096), 0)
	must(t, r.s.Quiesce()) // nothing settles any more
	_, err := v.freeze()
	must(t, err)
	r.write(v, randomBytes(2, 4096), 4096)
	must(t, v.Flush())
	name := v.layers[0].journal.Name()
	mem := r.mem.PowerCut(rand.New(rand.NewPCG(1, 1)))
	f, err := mem.Open(name)
	must(t, err)
	forgetJournal(t, f) // the note of how many there are was not durable
	_, err = f.WriteAt(make([]byte, 4096), journal.Offset(0))
	must(t, err)
	must(t, f.Close())
	must(t, r.reopened(mem, "next boot"))
	if _, err := r.s.OpenVolume("a", "test"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("what was flushed is gone, and nobody says so: %v", err)
	}
}

// The commit that ends a generation is lost. That there are others behind it tells it from a power
// cut.
func TestEndOfGenerationLost(t *testing.T) {
	for _, flushed := range []bool{true, false} { // something of the generation, before
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		must(t, r.s.Quiesce()) // nothing settles any more
		r.write(v, randomBytes(1, 4096), 0)
		if flushed {
			must(t, v.Flush())
		}
		r.write(v, randomBytes(2, 4096), 4096)
		_, err := v.freeze()
		must(t, err)
		r.write(v, randomBytes(3, 4096), 8192)
		must(t, v.Flush())
		l := v.layers[0]
		mem := r.mem.PowerCut(rand.New(rand.NewPCG(1, 1)))
		// The note of how many records there are was not durable.
		f, err := mem.Open(l.journal.Name())
		must(t, err)
		forgetJournal(t, f)
		must(t, f.Close())
		overwrite(t, mem, l.journal.Name(), make([]byte, journal.RecordSize), journal.Offset(l.journal.Count()-1))
		must(t, r.reopened(mem, "next boot"))
		if _, err := r.s.OpenVolume("a", "test"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("flushed %v: what was flushed is gone, and nobody says so: %v", flushed, err)
			continue
		}
		said, err := r.s.RepairVolume(t.Context(), "a", true)
		must(t, err)
		if !said.Done || said.Unknown == 0 || !within(said.Lost, 8192) || within(said.Lost, 0) == flushed {
			t.Errorf("flushed %v: %+v", flushed, said)
		}
		want := randomBytes(1, 4096)
		if !flushed {
			want = make([]byte, 4096)
		}
		for range 2 {
			wantRead(t, r.volume("a", 0), 0, want)
			must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(1, 2))), "the boot after"))
			r.undamaged("repaired")
		}
	}
}

// A damaged header doesn't say whether its journal counts whole, but that of the next generation
// does: it is kept.
func TestHeaderOfFrozenGeneration(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	must(t, r.s.Quiesce())
	r.write(v, randomBytes(1, 4096), 0)
	must(t, v.Flush())
	_, err := v.freeze()
	must(t, err)
	r.write(v, randomBytes(2, 4096), 4096)
	name := v.layers[0].journal.Name()
	mem := r.mem.Kill()
	overwrite(t, mem, name, make([]byte, 512), 0)
	for range 2 {
		must(t, r.reopened(mem, "boot"))
		v = r.volume("a", 0)
		wantRead(t, v, 0, randomBytes(1, 4096))
		wantRead(t, v, 4096, randomBytes(2, 4096))
		mem = r.mem.Kill()
	}
}
