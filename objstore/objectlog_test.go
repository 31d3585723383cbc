package objstore

import (
	"context"
	"fmt"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/record"
	"varve/objstore/internal/segment"
)

// sealedRig is a closed store whose volume lies in a sealed segment, and that segment's objects.
// Refs know how long the object log was, unless they were compacted since it went (forgotten).
func sealedRig(t *testing.T, forgotten bool) (r *rig, data []byte, id uint32, objs []segment.Object) {
	t.Helper()
	r = newRig(t, Options{})
	v := r.volume("a", 4<<20)
	data = randomBytes(1, 1<<20)
	r.write(v, data, 0)
	must(t, r.s.Settle(t.Context()))
	must(t, v.Close())
	must(t, r.s.Close())
	r.open(nil) // seals
	for _, g := range r.s.segments.All() {
		if chunks, _ := g.Stored(); g.Sealed() && chunks > 0 {
			id = g.ID
			var err error
			objs, err = g.Objects()
			must(t, err)
		}
	}
	must(t, r.s.Close())
	if forgotten {
		r.open(nil)
		must(t, r.s.catalog.append(context.Background(), padded(2<<20))) // and the log is written anew
		must(t, r.s.catalog.append(context.Background(), padded(1)))
		must(t, r.s.Close())
	}
	if id == 0 || len(objs) < 256 {
		t.Fatalf("segment %d is sealed, and has %d objects", id, len(objs))
	}
	return r, data, id, objs
}

// objectLog makes the segment's object log of the objects, in frames of 64.
func (r *rig) objectLog(id, number uint32, objs []segment.Object) {
	r.t.Helper()
	l, err := record.Create(r.mem, segment.ObjectLogName(id), segment.ObjectLogID(r.s.sb.ID, number))
	must(r.t, err)
	for len(objs) > 0 {
		n := min(64, len(objs))
		must(r.t, l.Append(segment.EncodeObjects(objs[:n])))
		objs = objs[n:]
	}
	must(r.t, l.Close())
}

// header has the segment's header say how long its footer is.
func (r *rig) header(id uint32, footer int64) {
	r.t.Helper()
	f, err := r.mem.Open(segment.Name(id))
	must(r.t, err)
	b := make([]byte, segment.HeaderSize)
	_, err = f.ReadAt(b, 0)
	must(r.t, err)
	h, err := segment.DecodeHeader(b, id, r.s.sb.ID)
	must(r.t, err)
	h.Footer = footer
	_, err = f.WriteAt(h.Encode(), 0)
	must(r.t, err)
	must(r.t, f.Datasync())
	must(r.t, f.Close())
}

// footer writes another footer to the segment, which names the objects, and its header.
func (r *rig) footer(id uint32, objs []segment.Object) {
	r.t.Helper()
	f, err := r.mem.Open(segment.Name(id))
	must(r.t, err)
	must(r.t, f.Truncate(r.o.SegmentSize))
	b := segment.EncodeFooter(id, objs)
	_, err = f.WriteAt(b, r.o.SegmentSize)
	must(r.t, err)
	must(r.t, f.Close())
	r.header(id, int64(len(b)))
}

// wholeAgain opens the store, which has to have all that it had, again and again.
func (r *rig) wholeAgain(data []byte, id uint32) {
	r.t.Helper()
	for _, how := range []string{"as it is", "closed", "killed", "power cut"} {
		if how != "as it is" {
			r.end(how)
		}
		r.open(nil)
		if r.s.segments.Get(id) == nil {
			r.t.Fatalf("%s: segment %08x is gone; lost %v", how, id, r.s.losses)
		}
		v := r.volume("a", 0)
		wantRead(r.t, v, 0, data)
		report, err := r.s.Check(r.t.Context(), nil)
		if err != nil || report.Damaged() > 0 {
			r.t.Fatalf("%s: check: %v, %+v", how, err, report.Damage)
		}
		if how != "as it is" && len(report.Damage) > 0 {
			r.t.Errorf("%s: what was repaired is found again: %+v", how, report.Damage)
		}
		must(r.t, v.Close())
	}
	if _, err := r.mem.Open(segment.ObjectLogName(id)); err == nil {
		r.t.Error("the object log of a sealed segment is left")
	}
	must(r.t, r.s.Close())
}

// Whatever becomes of a sealed segment's object log, or of its header, nothing of it goes that its
// footer names.
func TestObjectLogBesideSealedSegment(t *testing.T) {
	raw := func(b []byte) func(*rig, uint32, []segment.Object) {
		return func(r *rig, id uint32, _ []segment.Object) {
			f, err := disk.CreateFile(r.mem, segment.ObjectLogName(id), b)
			must(r.t, err)
			must(r.t, f.Close())
		}
	}
	cases := map[string]func(r *rig, id uint32, objs []segment.Object){
		"no object log":             func(*rig, uint32, []segment.Object) {},
		"a begun object log":        func(r *rig, id uint32, _ []segment.Object) { r.objectLog(id, id, nil) },
		"a file of nothing":         raw(nil),
		"a file of zeroes":          raw(make([]byte, record.HeaderSize)),
		"noise":                     raw(randomBytes(5, 4096)),
		"the object log of another": func(r *rig, id uint32, objs []segment.Object) { r.objectLog(id, id+1, objs) },
		"half an object log":        func(r *rig, id uint32, objs []segment.Object) { r.objectLog(id, id, objs[:128]) },
		"a whole object log":        func(r *rig, id uint32, objs []segment.Object) { r.objectLog(id, id, objs) },
		"an object log with a spoilt frame": func(r *rig, id uint32, objs []segment.Object) {
			r.objectLog(id, id, objs)
			flip(r.t, r.mem, segment.ObjectLogName(id), 5000)
		},
		"a draft of an object log": func(r *rig, id uint32, _ []segment.Object) {
			raw(nil)(r, id, nil)
			must(r.t, r.mem.Rename(segment.ObjectLogName(id), segment.ObjectLogName(id)+".new"))
		},
		"a header that knows no footer": func(r *rig, id uint32, _ []segment.Object) { r.header(id, 0) },
		"such a header, a begun object log": func(r *rig, id uint32, _ []segment.Object) {
			r.header(id, 0)
			r.objectLog(id, id, nil)
		},
		"such a header, a whole object log": func(r *rig, id uint32, objs []segment.Object) {
			r.header(id, 0)
			r.objectLog(id, id, objs)
		},
		"a footer and an object log of halves": func(r *rig, id uint32, objs []segment.Object) {
			r.footer(id, objs[:150])
			r.objectLog(id, id, objs[100:])
		},
		"half a footer, a whole object log": func(r *rig, id uint32, objs []segment.Object) { r.footer(id, objs[:150]); r.objectLog(id, id, objs) },
	}
	for name, harm := range cases {
		for _, forgotten := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, forgotten %v", name, forgotten), func(t *testing.T) {
				r, data, id, objs := sealedRig(t, forgotten)
				harm(r, id, objs)
				must(t, r.mem.SyncDir(segment.Dir))
				r.wholeAgain(data, id)
			})
		}
	}
}

// Where the header is damaged too, a footer may be what somebody has written to a volume: the
// segment stays, and its objects are told by their content.
func TestObjectLogAndHeaderDamaged(t *testing.T) {
	r, data, id, _ := sealedRig(t, true)
	flip(t, r.mem, segment.Name(id), 20)
	r.objectLog(id, id, nil)
	must(t, r.mem.SyncDir(segment.Dir))
	for range 3 {
		r.open(nil)
		if g := r.s.segments.Get(id); g == nil || !g.Damaged() {
			t.Fatalf("segment %08x: %+v; lost %v", id, g, r.s.losses)
		}
		v := r.volume("a", 0)
		wantRead(t, v, 0, data)
		report, err := r.s.Check(t.Context(), nil)
		must(t, err)
		if report.Damaged() == 0 {
			t.Error("check names no damage")
		}
		must(t, v.Close())
		must(t, r.s.Close())
	}
}

// A crash at any operation of an opening that reconciles the two loses nothing either.
func TestEveryCutOfReconciling(t *testing.T) {
	for _, how := range []string{"begun", "halves"} {
		for n := int64(0); ; n++ {
			r, data, id, objs := sealedRig(t, true)
			if how == "begun" {
				r.objectLog(id, id, nil)
			} else {
				r.footer(id, objs[:150])
				r.objectLog(id, id, objs[100:])
			}
			must(t, r.mem.SyncDir(segment.Dir))
			r.mem.CutAt(r.mem.Ops() + n/2)
			r.o.FS = r.mem
			s, err := Open(t.Context(), "mem", r.o)
			cut := r.mem.WasCut()
			if err == nil {
				_ = s.Close() // it may have been cut
			} else if !cut {
				t.Fatal(err)
			}
			if n%2 == 0 {
				r.mem = r.mem.Kill()
			} else {
				r.mem = r.mem.PowerCut(newRand(uint64(n)))
				r.o.Boot += "."
			}
			r.open(nil)
			v := r.volume("a", 0)
			wantRead(t, v, 0, data)
			must(t, v.Close())
			must(t, r.s.Close())
			if t.Failed() {
				t.Fatalf("%s: crash at operation %d of opening", how, n)
			}
			if !cut {
				if n < 20 {
					t.Fatalf("%s: %d operations", how, n)
				}
				break
			}
		}
	}
}
