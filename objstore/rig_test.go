package objstore

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/record"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// rig is a store in memory that a test can kill, cut and open again.
type rig struct {
	t   *testing.T
	mem *vfs.Mem
	o   Options
	s   *Store
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	if o.SettleDelay == 0 {
		o.SettleDelay = -1
	}
	o.SegmentSize = max(o.SegmentSize, smallestSegment)
	o.Reserve = max(o.Reserve, 1<<20)
	o.Index, o.Boot, o.Mount = index.NewMem(), "boot", "mount"
	r := &rig{t: t, mem: vfs.NewMem(0), o: o}
	must(t, initFS(r.mem, "mem", InitOptions{ChunkSize: 4096}))
	r.open(nil)
	t.Cleanup(func() { _ = r.s.Close() })
	return r
}

// end ends the store: it is "closed" or "killed", or there is a "power cut".
func (r *rig) end(how string) {
	r.t.Helper()
	switch how {
	case "closed":
		must(r.t, r.s.Close())
		return
	case "killed":
		r.mem = r.mem.Kill()
	case "power cut":
		r.mem = r.mem.PowerCut(rand.New(rand.NewPCG(1, 1)))
		r.o.Boot += "."
	default:
		r.t.Fatalf("a store is not %q", how)
	}
	_ = r.s.Close() // ends its goroutines
}

// open opens the store; hook may be nil.
func (r *rig) open(hook func(vfs.Op) error) {
	r.t.Helper()
	r.o.FS = r.mem
	if hook != nil {
		r.o.FS = vfs.Inject(r.mem, hook)
	}
	s, err := Open(context.Background(), "mem", r.o)
	must(r.t, err)
	r.s = s
}

func (r *rig) volume(name string, size int64) *Volume {
	r.t.Helper()
	if _, err := r.s.VolumeInfo(name); err != nil {
		_, err := r.s.CreateVolume(context.Background(), name, VolumeOptions{Size: size})
		must(r.t, err)
	}
	v, err := r.s.OpenVolume(name, "test")
	must(r.t, err)
	return v
}

func (r *rig) write(v *Volume, p []byte, off int64) {
	r.t.Helper()
	_, err := v.WriteAt(p, off)
	must(r.t, err)
}

// reopened opens the store of a rig on another file system, as after a crash.
func (r *rig) reopened(mem *vfs.Mem, boot string) error {
	_ = r.s.Close()
	r.mem, r.o.FS, r.o.Boot, r.o.Index = mem, mem, boot, index.NewMem()
	s, err := Open(context.Background(), "mem", r.o)
	if err == nil {
		r.s = s
	}
	return err
}

// undamaged fails if opening has found damage.
func (r *rig) undamaged(what string) {
	r.t.Helper()
	for _, d := range append(slices.Clone(r.s.repairs), r.s.losses...) {
		r.t.Errorf("%s: taken for damage: %v", what, d)
	}
	for _, v := range r.s.Volumes() {
		if v.Damage != "" {
			r.t.Errorf("%s: volume %s: taken for damage: %s", what, v.Name, v.Damage)
		}
	}
}

// longRefs makes the refs log long enough to be compacted.
func (r *rig) longRefs() {
	r.t.Helper()
	must(r.t, r.s.Close())
	l, err := record.Open(r.t.Context(), r.mem, refs.LogFiles, refs.LogID(r.s.sb.ID), false, refs.NewState(disk.MaxChunkSize).ApplyFrame)
	must(r.t, err)
	b, err := json.Marshal(slices.Repeat([]refs.Record{{Op: refs.OpSegments, Gen: 1, Name: strings.Repeat("long ", 200)}}, 1100))
	must(r.t, err)
	must(r.t, l.Append(b))
	must(r.t, l.Close())
}

// padded is a record that says nothing, at length.
func padded(n int) refs.Record {
	return refs.Record{Op: refs.OpSegments, Gen: 1, Name: strings.Repeat("x", n)}
}

// overwrite has a file of a killed store hold p at off.
func overwrite(t *testing.T, mem *vfs.Mem, name string, p []byte, off int64) {
	t.Helper()
	f, err := mem.Open(name)
	must(t, err)
	_, err = f.WriteAt(p, off)
	must(t, err)
	must(t, f.Close())
}
