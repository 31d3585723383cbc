package image

import (
	"bytes"
	"errors"
	"testing"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/qcow2/format"
)

// A cluster that is freed is not used again while a request that may have found it is in flight.
func TestFreedInFlight(t *testing.T) {
	d := newDisk(create(geometry{version: 3, bits: 16, order: 4}, guest))
	m, err := Open(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := write(m, d, bytes.Repeat([]byte{1}, 64<<10), 0); err != nil {
		t.Fatal(err)
	}
	e := m.Enter()
	x, err := m.Lookup(0, 64<<10, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Zero(t.Context(), 0, 64<<10, false); err != nil {
		t.Fatal(err)
	}
	count := func() uint64 {
		for range 6 {
			if err := m.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		m.alloc.mu.Lock()
		defer m.alloc.mu.Unlock()
		b, err := m.alloc.block(0)
		if err != nil {
			t.Fatal(err)
		}
		return m.head.Refcount(b.b, x.Off>>16)
	}
	if n := count(); n != 1 {
		t.Errorf("refcount %d with a request in flight, want 1", n)
	}
	m.Leave(e)
	if n := count(); n != 0 {
		t.Errorf("refcount %d when the request has left, want 0", n)
	}
}

// An L2 table in a cluster that was used before is durable before the L1 entry that names it is
// written: else a power cut leaves an entry that names whatever was there.
func TestTableBeforeItsEntry(t *testing.T) {
	const cluster = 64 << 10
	d := newDisk(create(geometry{version: 3, bits: 16, order: 4}, guest))
	m, err := Open(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	host, _, err := m.alloc.take()
	if err == nil {
		err = d.WriteAt(bytes.Repeat([]byte{0xff}, cluster), host)
	}
	if err := errors.Join(err, m.Sync()); err != nil {
		t.Fatal(err)
	}
	m.alloc.giveBack(host)
	last := len(m.alloc.ready) - 1
	m.alloc.ready[0], m.alloc.ready[last] = m.alloc.ready[last], m.alloc.ready[0] // the next to be taken
	entries := 0
	d.onWrite = func(off int64) {
		if off != m.head.L1Offset {
			return
		}
		entries++
		if !bytes.Equal(d.durable[host:host+cluster], make([]byte, cluster)) {
			t.Error("the L1 entry is written before its table is durable")
		}
	}
	if err := write(m, d, make([]byte, sector), 0); err != nil {
		t.Fatal(err)
	}
	if off := int64(m.l1[0] &^ format.Copied); entries != 1 || off != host {
		t.Errorf("%d writes of the L1 entry, table at %d, want one, at %d", entries, off, host)
	}
}

// An image that outgrows its refcount table gets a larger one.
func TestRefcountTableGrows(t *testing.T) {
	const size = 8 << 20
	d := newDisk(create(geometry{version: 3, bits: 9, order: 6}, size))
	for range 2 { // the table that was made is found
		m, err := Open(d, Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := bytes.Repeat([]byte{3}, 256<<10)
		for off := int64(0); off < size; off += int64(len(p)) {
			if err := write(m, d, p, off); err != nil {
				t.Fatal(err)
			}
		}
		got := backing.Memory(size)
		if err := errors.Join(Read(m, got, 0), m.Close()); err != nil || !bytes.Equal(got, bytes.Repeat(p, size/len(p))) {
			t.Fatalf("another disk, %v", err)
		}
		if m.head.RefClusters < 5 {
			t.Errorf("a refcount table of %d clusters", m.head.RefClusters)
		}
		qemuCheck(t, d.b, false)
	}
}

// After a sync that failed nothing is written any more.
func TestFailedSync(t *testing.T) {
	d := newDisk(create(geometry{version: 3, bits: 16, order: 4}, guest))
	m, err := Open(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := write(m, d, make([]byte, sector), 0); err != nil {
		t.Fatal(err)
	}
	d.left, d.cut = 0, false
	if err := m.Sync(); !errors.Is(err, errCut) {
		t.Fatalf("sync: %v", err)
	}
	d.left, d.cut = -1, false
	if _, ok := m.InPlace(0, sector); ok {
		t.Error("an in-place write after a failed sync")
	}
	for _, err := range []error{m.Sync(), write(m, d, make([]byte, sector), 0), m.Zero(t.Context(), 0, sector, false), m.Close()} {
		if !errors.Is(err, errCut) {
			t.Errorf("after a failed sync: %v", err)
		}
	}
}

// A compressed cluster that is cut off or is none is an error, and takes no memory.
func TestUnpackGarbage(t *testing.T) {
	for _, how := range []format.Compression{format.Deflate, format.Zstd} {
		if err := decompress(make([]byte, 512), bytes.Repeat([]byte{0xff}, 600), 0, how, 1<<16); err == nil {
			t.Errorf("compression %d: garbage is a cluster", how)
		}
	}
}

// Whatever a compressed cluster holds, no more than a cluster comes of it.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00"), true)
	f.Add([]byte{0x4b, 0x04, 0}, false)
	f.Fuzz(func(t *testing.T, b []byte, zstd bool) {
		how := format.Deflate
		if zstd {
			how = format.Zstd
		}
		_ = decompress(make([]byte, 512), b, 64, how, 4096)
	})
}

// Whatever bytes of an image are changed: it is refused, or all reads and writes end.
func FuzzImage(f *testing.F) {
	f.Add(uint32(0x600), uint64(1), uint32(0x208), uint64(0x800))
	f.Fuzz(func(t *testing.T, at uint32, v uint64, at2 uint32, v2 uint64) {
		d := newDisk(create(geometry{version: 3, bits: 9, order: 4}, 64<<10))
		m, err := Open(d, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(write(m, d, bytes.Repeat([]byte{7}, 8<<10), 1024), m.Close()); err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			d.b[(int(at)+i)%len(d.b)] ^= byte(v >> (8 * i))
			d.b[(int(at2)+i)%len(d.b)] ^= byte(v2 >> (8 * i))
		}
		for _, readOnly := range []bool{true, false} {
			m, err := Open(newDisk(d.b), Options{ReadOnly: readOnly})
			if err != nil || m.Size() > 1<<30 {
				continue
			}
			_ = Read(m, backing.Memory(4096), 0)
			if !readOnly {
				_ = write(m, m.file, make([]byte, 4096), 0)
				_ = m.Zero(t.Context(), 0, 8192, false)
				_ = m.Close()
			}
		}
	})
}
