package vfs

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func rnd(seed int64) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 1)) }

func reopen(t *testing.T, fs FS, name string) File {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	return f
}

// durableFile makes a file whose first size bytes are 'o' and durable.
func durableFile(t *testing.T, m *Mem, name string, size int) File {
	t.Helper()
	f := create(t, m, name)
	write(t, f, 0, bytes.Repeat([]byte{'o'}, size))
	must(t, f.Datasync())
	must(t, m.SyncDir("."))
	return f
}

// A sector is old or new after a power cut, and both happen; what was synced is there.
func TestPowerCutSectors(t *testing.T) {
	const size = 32 << 10
	var olds, news, tornPages int
	for seed := int64(0); seed < 200; seed++ {
		m := NewMem(seed % 2 * seed)
		f := durableFile(t, m, "f", size)
		write(t, f, 0, bytes.Repeat([]byte{'n'}, size))
		b, err := f.Map(0, size)
		must(t, err)
		copy(b[size/2:], bytes.Repeat([]byte{'m'}, size/2))
		after := m.PowerCut(rnd(seed))
		p := read(t, reopen(t, after, "f"), 0, size)
		for s := 0; s < size; s += SectorSize {
			sector := p[s : s+SectorSize]
			if !bytes.Equal(sector, bytes.Repeat(sector[:1], SectorSize)) {
				t.Fatalf("seed %d: sector at %d is torn", seed, s)
			}
			switch {
			case sector[0] == 'o':
				olds++
			case sector[0] == 'n' && s < size/2, sector[0] == 'm' && s >= size/2:
				news++
			case sector[0] == 'n' && seed%2 == 1: // written back before it was overwritten
			default:
				t.Fatalf("seed %d: sector at %d is %q", seed, s, sector[:1])
			}
			if s%pageSize != 0 && sector[0] != p[s-1] {
				tornPages++
			}
		}
		// Nothing is lost by a second power cut.
		q := read(t, reopen(t, after.PowerCut(rnd(seed+1)), "f"), 0, size)
		wantBytes(t, q, p)
	}
	if olds == 0 || news == 0 || tornPages == 0 {
		t.Fatalf("%d old sectors, %d new, %d torn pages: a power cut does not choose", olds, news, tornPages)
	}
}

func TestPowerCutKeepsSynced(t *testing.T) {
	for seed := int64(0); seed < 100; seed++ {
		m := NewMem(seed)
		f := durableFile(t, m, "f", 10000)
		must(t, f.Allocate(0, 1<<16))
		b, err := f.Map(0, 1<<16)
		must(t, err)
		copy(b[20000:], "mapped")
		must(t, f.Truncate(1<<15))
		must(t, f.Punch(0, 4096))
		must(t, f.Datasync())
		want := make([]byte, 1<<15)
		copy(want[4096:], bytes.Repeat([]byte{'o'}, 10000-4096))
		copy(want[20000:], "mapped")
		g := reopen(t, m.PowerCut(rnd(seed)), "f")
		wantSize(t, g, 1<<15)
		wantBytes(t, read(t, g, 0, 1<<15), want)
	}
}

func TestPowerCutSizes(t *testing.T) {
	sizes := map[int64]int{}
	for seed := int64(0); seed < 300; seed++ {
		m := NewMem(0)
		f := durableFile(t, m, "f", 1000)
		write(t, f, 1000, bytes.Repeat([]byte{'n'}, 9000))
		g := reopen(t, m.PowerCut(rnd(seed)), "f")
		size, err := g.Size()
		must(t, err)
		if size < 1000 || size > 10000 {
			t.Fatalf("size %d", size)
		}
		sizes[size]++
		for i, c := range read(t, g, 0, int(size)) {
			if c != 'o' && c != 'n' && c != 0 || i < 1000 && c != 'o' {
				t.Fatalf("byte %d is %#x", i, c)
			}
		}
	}
	if sizes[1000] == 0 || sizes[10000] == 0 || sizes[4096] == 0 || sizes[8192] == 0 || len(sizes) != 4 {
		t.Fatalf("sizes %v", sizes)
	}
}

func TestPowerCutNames(t *testing.T) {
	seen := map[string]int{}
	for seed := int64(0); seed < 300; seed++ {
		m := NewMem(seed % 2 * seed)
		durableFile(t, m, "a", 1)
		durableFile(t, m, "b", 2)
		must(t, m.Rename("a", "b")) // atomic
		create(t, m, "c")
		must(t, m.Remove("c"))
		must(t, m.Mkdir("d/e"))
		create(t, m, "d/e/f")
		must(t, m.SyncDir("d/e")) // does not make d durable
		after := m.PowerCut(rnd(seed))
		names, err := after.List(".")
		must(t, err)
		size, err := reopen(t, after, "b").Size()
		must(t, err)
		seen[fmt.Sprint(names, size)]++
		if (names[0] == "a") != (size == 2) {
			t.Fatalf("a rename was torn: %v, b has %d bytes", names, size)
		}
	}
	for _, want := range []string{"[a b] 2", "[b] 1", "[a b c] 2", "[b c d] 1", "[b d] 1"} {
		if seen[want] == 0 {
			t.Errorf("%s never happened: %v", want, seen)
		}
	}
	m := NewMem(0)
	must(t, m.Mkdir("d"))
	create(t, m, "d/f")
	must(t, m.SyncDir("d"))
	must(t, m.SyncDir("."))
	for seed := int64(0); seed < 20; seed++ {
		reopen(t, m.PowerCut(rnd(seed)), "d/f")
	}
}

func TestKill(t *testing.T) {
	m := NewMem(7)
	f := create(t, m, "f")
	write(t, f, 0, []byte("written"))
	must(t, f.Truncate(1<<16))
	b, err := f.Map(4096, 4096)
	must(t, err)
	copy(b, "mapped")
	_, err = m.Lock("lock")
	must(t, err)
	after := m.Kill()
	copy(b, "too late")
	_, err = f.WriteAt([]byte("x"), 0)
	wantErr(t, err, ErrCut, "f")
	_, err = f.ReadAt(make([]byte, 1), 0)
	wantErr(t, err, ErrCut, "f")
	must(t, f.Unmap(b))
	must(t, f.Close())
	g := reopen(t, after, "f")
	wantSize(t, g, 1<<16)
	wantBytes(t, read(t, g, 0, 7), []byte("written"))
	wantBytes(t, read(t, g, 4096, 7), []byte("mapped\x00"))
	_, err = after.Lock("lock")
	must(t, err)
}

// A cut at operation n happens at n and nowhere else.
func TestCutAt(t *testing.T) {
	work := func(m *Mem) error {
		f, err := m.Create("f")
		if err != nil {
			return err
		}
		for i := int64(0); i < 5; i++ {
			if _, err := f.WriteAt([]byte{'x'}, i); err != nil {
				return err
			}
			if _, err := f.ReadAt(make([]byte, 1), i); err != nil { // does not count
				return err
			}
		}
		return errors.Join(f.Datasync(), m.SyncDir("."))
	}
	whole := NewMem(0)
	must(t, work(whole))
	if whole.Ops() != 8 {
		t.Fatalf("%d operations", whole.Ops())
	}
	for n := int64(0); n < 8; n++ {
		m := NewMem(0)
		m.CutAt(n)
		wantErr(t, work(m), ErrCut, "")
		if m.Ops() != n || !m.WasCut() {
			t.Fatalf("cut after %d operations, want %d", m.Ops(), n)
		}
		f, err := m.Kill().Open("f")
		if n == 0 {
			wantErr(t, err, iofs.ErrNotExist, "f")
			continue
		}
		must(t, err)
		wantSize(t, f, min(n-1, 5))
	}
}

func TestNoSpace(t *testing.T) {
	m := NewMem(0)
	m.SetSpace(10 * pageSize)
	f := create(t, m, "f")
	n, err := f.WriteAt(make([]byte, 20*pageSize), 0)
	wantErr(t, err, syscall.ENOSPC, "f")
	if n != 9*pageSize {
		t.Fatalf("%d bytes written before the disk was full", n)
	}
	write(t, f, 0, make([]byte, 9*pageSize)) // overwriting needs no room
	_, err = m.Create("g")
	wantErr(t, err, syscall.ENOSPC, "g")
	must(t, f.Punch(0, 4*pageSize))
	wantErr(t, f.Allocate(0, 20*pageSize), syscall.ENOSPC, "f")
	must(t, f.Truncate(0))
	must(t, f.Allocate(0, 9*pageSize))
	must(t, m.Remove("f"))
	if _, free, _ := m.Space(); free != 0 {
		t.Fatalf("%d bytes free while the removed file is open", free)
	}
	must(t, f.Close())
	if _, free, _ := m.Space(); free != 10*pageSize {
		t.Fatalf("%d bytes free at the end", free)
	}
}

// What a failed sync dropped stays lost, however often the sync is tried again, unless it is
// written again.
func TestDropDirty(t *testing.T) {
	m := NewMem(0)
	failed := false
	fs := Inject(m, func(op Op) error {
		if op.Kind == OpDatasync && !failed {
			failed = true
			m.DropDirty(op.Name)
			return syscall.EIO
		}
		return nil
	})
	durableFile(t, m, "f", 8192)
	f := reopen(t, fs, "f")
	write(t, f, 0, bytes.Repeat([]byte{'n'}, 8192))
	wantErr(t, f.Datasync(), syscall.EIO, "f")
	write(t, f, 4096, bytes.Repeat([]byte{'n'}, 4096))
	must(t, f.Datasync())
	wantBytes(t, read(t, f, 0, 1), []byte{'n'})
	for seed := int64(0); seed < 20; seed++ {
		p := read(t, reopen(t, m.PowerCut(rnd(seed)), "f"), 0, 8192)
		wantBytes(t, p[:4096], bytes.Repeat([]byte{'o'}, 4096))
		wantBytes(t, p[4096:], bytes.Repeat([]byte{'n'}, 4096))
	}
}

func TestInject(t *testing.T) {
	for kind := Kind(0); kind < kinds; kind++ {
		t.Run(kind.String(), func(t *testing.T) {
			armed := false
			var got Op
			fs := Inject(NewMem(0), func(op Op) error {
				if armed && op.Kind == kind {
					got = op
					return syscall.EIO
				}
				return nil
			})
			f := create(t, fs, "f")
			must(t, f.Allocate(0, 8192))
			armed = true
			calls := []error{}
			add := func(err error) { calls = append(calls, err) }
			_, err := fs.Create("g")
			add(err)
			_, err = fs.Open("f")
			add(err)
			_, err = fs.List(".")
			add(err)
			_, err = fs.Lock("lock")
			add(err)
			_, _, err = fs.Space()
			add(err)
			_, err = fs.Used("f")
			add(err)
			_, err = f.ReadAt(make([]byte, 10), 5)
			add(err)
			_, err = f.WriteAt(make([]byte, 10), 5)
			add(err)
			_, err = f.Size()
			add(err)
			_, err = f.Map(0, 4096)
			add(err)
			for _, err := range []error{
				fs.Mkdir("d"), fs.SyncDir("."), f.Allocate(5, 10), f.Punch(5, 10), f.Datasync(), f.Truncate(8192),
				fs.Rename("f", "h"), fs.Remove("h"),
			} {
				add(err)
			}
			failures := 0
			for _, err := range calls {
				if errors.Is(err, syscall.EIO) {
					failures++
				}
			}
			if failures != 1 {
				t.Fatalf("%d calls met the error: %v", failures, calls)
			}
			if (kind == OpRead || kind == OpWrite) && (got.Name != "f" || got.Off != 5 || got.Len != 10) {
				t.Fatalf("hook saw %+v", got)
			}
		})
	}
	fs := Inject(NewMem(0), func(op Op) error {
		if op.Kind == OpWrite {
			return &ShortError{N: 3, Err: syscall.EIO}
		}
		return nil
	})
	f := create(t, fs, "f")
	n, err := f.WriteAt([]byte("abcdef"), 0)
	wantErr(t, err, syscall.EIO, "f")
	if n != 3 {
		t.Fatalf("short write of %d bytes", n)
	}
	wantBytes(t, read(t, f, 0, 3), []byte("abc"))
	wantSize(t, f, 3)
}

// A copy of the state taken under stores to a mapping is what memory held at one moment.
func TestKillUnderStores(t *testing.T) {
	m := NewMem(0)
	f := create(t, m, "f")
	must(t, f.Allocate(0, 64*pageSize))
	b, err := f.Map(0, 64*pageSize)
	must(t, err)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() { storeUpwards(b, &stop) })
	for b0(b) == 0 { // let it run
	}
	after := m.Kill()
	stop.Store(true)
	wg.Wait()
	p := read(t, reopen(t, after, "f"), 0, 64*pageSize)
	for i := 1; i < 64; i++ {
		prev, cur := p[(i-1)*pageSize], p[i*pageSize]
		if prev != cur && prev != cur+1 {
			t.Fatalf("page %d holds round %d, page %d round %d", i-1, prev, i, cur)
		}
	}
}

//go:norace
func storeUpwards(b []byte, stop *atomic.Bool) {
	for round := byte(1); !stop.Load(); round++ {
		for i := 0; i < len(b); i += pageSize {
			b[i] = round
			for spin := 0; spin < 20000; spin++ { // a store to a journal is not the only thing an engine does
			}
		}
	}
}

//go:norace
func b0(b []byte) byte { return b[0] }
