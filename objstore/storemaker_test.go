package objstore

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// TestMakeStore makes a small store in the directory that VARVE_MAKE_STORE names, or in one of its
// own. testdata/stores/make runs it at earlier commits, for which this file depends on nothing but
// the exported methods, and looks them up by name: some have gained a context, others are new.
func TestMakeStore(t *testing.T) {
	dir := os.Getenv("VARVE_MAKE_STORE")
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "store")
	}
	makeStore(t, dir)
}

// makeStore makes a store in dir, which TestGoldenStores knows.
func makeStore(t *testing.T, dir string) {
	t.Helper()
	m := &storeMaker{t: t}
	m.must(Init(dir, InitOptions{ChunkSize: 4096}))
	s, err := Open(context.Background(), dir, Options{SegmentSize: 4<<20 + 4096, SettleDelay: -1})
	m.must(err)
	m.s = reflect.ValueOf(s)
	m.call("CreateVolume", "a", VolumeOptions{Size: 2<<20 + 1536})
	m.call("CreateVolume", "b", VolumeOptions{Size: 1 << 20, BlockSize: 4096})
	m.call("CreateVolume", "never-written", VolumeOptions{Size: 1 << 20})
	m.call("CreateSnapshot", "never-written", "zeroes")
	a, b := m.open("a"), m.open("b")
	m.write(a, 1, 0, 256<<10)
	m.write(a, 2, 2<<20, 1536)
	m.write(b, 1, 64<<10, 96<<10) // what a has too
	m.zero(a, 100<<10, 50<<10)
	m.call("CreateSnapshot", "a", "one")
	m.must(s.Settle(context.Background()))
	m.call("CreateSnapshot", "b", "same")
	m.call("CreateSnapshot", "b", "gone")
	m.call("DeleteSnapshot", "b", "gone")
	if m.has("SetVerify") {
		m.call("SetVerify", "b", true)
	}
	if m.has("SetMaxSize") {
		m.call("SetMaxSize", int64(1<<40))
	}
	if m.has("ResizeVolume") {
		m.call("ResizeVolume", "never-written", int64(3<<20), ResizeOptions{})
	}
	m.write(a, 3, 1<<20, 40<<10) // settles and is then overwritten in part
	m.must(s.Settle(context.Background()))
	if m.has("CreateScratch") {
		m.call("CreateScratch", "a", "one")
	}
	m.write(a, 4, 128<<10+512, 5<<10)
	m.call("CreateSnapshot", "a", "two") // has not settled
	m.write(a, 5, 0, 9<<10)
	m.zero(a, 1<<20+8<<10, 4<<10)
	m.must(a.Close())
	m.must(b.Close())
	m.must(s.Close()) // with a tail
}

// storeMaker calls the methods of a store by their names.
type storeMaker struct {
	t *testing.T
	s reflect.Value
}

func (m *storeMaker) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *storeMaker) has(name string) bool { return m.s.MethodByName(name).IsValid() }

// call calls a method of the store, with a context if it takes one, and returns its first result.
func (m *storeMaker) call(name string, args ...any) any {
	m.t.Helper()
	method := m.s.MethodByName(name)
	if !method.IsValid() {
		m.t.Fatalf("a store has no method %s", name)
	}
	var in []reflect.Value
	if method.Type().NumIn() > len(args) {
		in = append(in, reflect.ValueOf(context.Background()))
	}
	for _, a := range args {
		in = append(in, reflect.ValueOf(a))
	}
	out := method.Call(in)
	if len(out) == 0 {
		return nil
	}
	if err, failed := out[len(out)-1].Interface().(error); failed {
		m.t.Fatalf("%s %v: %v", name, args, err)
	}
	return out[0].Interface()
}

func (m *storeMaker) open(name string) *Volume {
	m.t.Helper()
	v, err := m.s.Interface().(*Store).OpenVolume(name, "test")
	m.must(err)
	return v
}

// write writes words that say where they lie, and of which write they are.
func (m *storeMaker) write(v *Volume, seq uint64, off int64, n int) {
	m.t.Helper()
	_, err := v.WriteAt(madeBytes(seq, off, n), off)
	m.must(err)
}

func (m *storeMaker) zero(v *Volume, off, n int64) {
	m.t.Helper()
	m.must(v.Zero(off, n))
}

// madeBytes are n bytes of a write at off, which compress well.
func madeBytes(seq uint64, off int64, n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], seq<<48|uint64(off/4096+int64(i)/4096)<<16|1)
	}
	return b
}
