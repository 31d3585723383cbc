package objstore

import (
	"sync/atomic"
	"syscall"
	"testing"

	"varve/objstore/internal/merkle"
)

// resized does what a resizing does to objects: it makes the tree of another size, durably, and then
// the base of it. Nothing is recorded.
func (r *layerRig) resized(size int64) (*merkle.Root, error) {
	z := &resizing{layers: r.layerSettler, v: r.v, size: size, shrinks: size < r.v.Size()}
	r.v.settleMu.Lock()
	defer r.v.settleMu.Unlock()
	r.v.mu.Lock()
	st := r.begin(r.t.Context(), r.v, newLayer(r.v.baseGen, nil))
	r.v.mu.Unlock()
	err := z.discard(st)
	var root *merkle.Root
	if err == nil {
		root, err = z.tree(st)
	}
	if err == nil {
		err = st.durable()
	}
	if err != nil {
		st.undo()
		return nil, err
	}
	r.objects.Deepen(root.Depth)
	r.v.ref.Logical = st.account() // as the record does
	r.v.setBase(newBase(r.cache, *root), r.v.ref.Logical)
	return root, nil
}

// A larger size adds levels above the tree, and a smaller one cuts it: a volume that has grown and
// shrunk again has the root that it had, at every depth. What is cut off does not come back.
func TestResizingTree(t *testing.T) {
	r := newLayerRig(t)
	must(t, r.settle(t.Context(), r.v))
	r.end()
	r.v.ref.Logical = r.heads[0].Logical
	was, size := r.v.base.id, r.v.Size()
	old, top := r.v.base.root.Depth, r.v.base.root.Top
	for _, larger := range []int64{size + rigChunk, 3 << 20, 300 << 20, 2 << 40} {
		root, err := r.resized(larger)
		must(t, err)
		if want := merkle.EmptyRoot(larger, rigChunk); root.Depth != want.Depth || root.Size != larger || r.v.Size() != larger {
			t.Fatalf("a root for %d bytes: %+v", larger, root)
		}
		h := root.Top
		for level := root.Depth; level > old; level-- {
			n, err := r.objects.Node(t.Context(), h, level)
			must(t, err)
			if n.Count() != 1 {
				t.Errorf("%d bytes: a node of level %d has %d children", larger, level, n.Count())
			}
			h = n[0]
		}
		if h != top {
			t.Errorf("%d bytes: the old tree is not below the new top", larger)
		}
		if _, err = r.resized(size); err != nil || r.v.base.id != was {
			t.Errorf("back from %d bytes: %v, the same root: %v", larger, err, r.v.base.id == was)
		}
	}
	_, err := r.resized(2 * rigChunk) // the two whole chunks
	must(t, err)
	if logical := r.v.baseData; logical != 2*rigChunk {
		t.Errorf("cut to two chunks, and %d bytes are data", logical)
	}
	_, err = r.resized(size)
	must(t, err)
	if r.v.base.id == was || r.v.baseData != 2*rigChunk {
		t.Errorf("what was cut off came back: %d bytes are data", r.v.baseData)
	}
}

// Whichever step fails, the volume is as it was. Without room or memory, it can be resized later.
func TestResizingFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		for _, size := range []int64{300 << 20, rigChunk} {
			for at := 0; ; at++ {
				r := newLayerRig(t)
				must(t, r.settle(t.Context(), r.v))
				r.end()
				was, now := r.v.base.id, r.v.Size()
				r.steps = nil
				var seen atomic.Int64
				r.before = func(string) error {
					if seen.Add(1) == int64(at)+1 {
						return errno
					}
					return nil
				}
				_, err := r.resized(size)
				r.before = nil
				if seen.Load() <= int64(at) {
					must(t, err)
					break
				}
				what := errno.Error() + " in " + r.steps[at]
				if err != nil && (r.v.base.id != was || r.v.Size() != now) {
					t.Errorf("%s: the volume has changed, to %d bytes", what, r.v.Size())
				}
				if r.gate.writeError() != nil {
					continue
				}
				if _, err := r.resized(size); err != nil {
					t.Errorf("%s, and again: %v", what, err)
				}
			}
		}
	}
}
