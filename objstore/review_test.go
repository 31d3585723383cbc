package objstore

import (
	"context"
	"testing"

	"varve/objstore/index"
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

func TestFlushAfterSegmentRetired(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	// Zeroes settle to holes: nothing of the first segment is adopted, and it goes without ever being flushed.
	for range 3 {
		r.write(v, make([]byte, 4<<20), 0)
	}
	must(t, r.s.Settle(context.Background()))
	r.write(v, randomBytes(1, 4096), 0)
	must(t, v.Flush())
}
