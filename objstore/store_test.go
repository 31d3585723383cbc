package objstore

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func randomBytes(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func openTest(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), dir, o)
	must(t, err)
	return s
}

func wantRead(t testing.TB, im Image, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := im.ReadAt(got, off)
	must(t, err)
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("byte %d of %d at %d: got %02x, want %02x", i, len(want), off, got[i], want[i])
			}
		}
	}
}

func TestEndToEnd(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	must(t, Init(dir, InitOptions{}))
	s := openTest(t, dir, Options{SegmentSize: 8 << 20, SettleDelay: -1})
	for _, name := range []string{"a", "b"} {
		_, err := s.CreateVolume(ctx, name, VolumeOptions{Size: 64 << 20})
		must(t, err)
	}
	a, err := s.OpenVolume("a", "test")
	must(t, err)
	b, err := s.OpenVolume("b", "test")
	must(t, err)
	data := randomBytes(1, 3<<20)
	_, err = a.WriteAt(data, 1<<20)
	must(t, err)
	wantRead(t, a, 1<<20, data)
	_, err = s.CreateSnapshot(ctx, "a", "one")
	must(t, err)
	view, err := s.OpenSnapshot("a", "one")
	must(t, err)
	_, err = a.WriteAt(randomBytes(2, 5000), 1<<20+777)
	must(t, err)
	wantRead(t, view, 1<<20, data)
	one, err := s.WaitSnapshot(ctx, "a", "one")
	must(t, err)
	wantRead(t, view, 1<<20, data)
	// The same content by other writes.
	for o := len(data) - 4096; o >= 0; o -= 4096 {
		_, err = b.WriteAt(data[o:o+4096], int64(1<<20+o))
		must(t, err)
	}
	_, err = s.CreateSnapshot(ctx, "b", "one")
	must(t, err)
	two, err := s.WaitSnapshot(ctx, "b", "one")
	must(t, err)
	if one.Root != two.Root {
		t.Errorf("equal content, roots %s and %s", one.Root, two.Root)
	}
	st, err := s.Stat()
	must(t, err)
	t.Logf("%+v", st)
	if st.Stored != int64(len(data)) { // what "a" wrote later has not settled
		t.Errorf("stored %d bytes of %d twice", st.Stored, len(data))
	}
	must(t, a.Zero(1<<20, 1<<20))
	must(t, s.Settle(ctx))
	wantRead(t, a, 1<<20, make([]byte, 1<<20))
	wantRead(t, a, 2<<20, data[1<<20:])
	wantRead(t, view, 1<<20, data)
	must(t, view.Close())
	must(t, a.Close())
	must(t, b.Close())
	must(t, s.Close())

	s = openTest(t, dir, Options{SettleDelay: time.Hour})
	defer s.Close()
	a, err = s.OpenVolume("a", "test")
	must(t, err)
	wantRead(t, a, 1<<20, make([]byte, 1<<20))
	wantRead(t, a, 2<<20, data[1<<20:])
	r, err := s.OpenRoot(one.Root)
	must(t, err)
	wantRead(t, r, 1<<20, data)
	must(t, r.Close())
	must(t, a.Close())
}

func TestFuzzlike(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	must(t, Init(dir, InitOptions{ChunkSize: 4096}))
	const size = 8 << 20
	model := make([]byte, size)
	o := Options{SegmentSize: 5 << 20, SettleDelay: -1, TailSoft: 4 << 20, TailHard: 8 << 20}
	s := openTest(t, dir, o)
	_, err := s.CreateVolume(ctx, "v", VolumeOptions{Size: size})
	must(t, err)
	v, err := s.OpenVolume("v", "test")
	must(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		off := r.Int64N(size)
		n := min(r.Int64N(100000)+1, size-off)
		switch k := r.IntN(40); {
		case k < 15:
			d := randomBytes(uint64(i), int(n))
			_, err := v.WriteAt(d, off)
			must(t, err)
			copy(model[off:], d)
		case k < 20:
			off, n = off&^511, (n+511)&^511
			n = min(n, size-off)
			must(t, v.Zero(off, n))
			clear(model[off : off+n])
		case k < 35:
			wantRead(t, v, off, model[off:off+n])
		case k == 36:
			must(t, v.Flush())
		case k == 37:
			must(t, s.Settle(ctx))
		case k == 38 && i%7 == 0:
			must(t, v.Close())
			must(t, s.Close())
			s = openTest(t, dir, o)
			v, err = s.OpenVolume("v", "test")
			must(t, err)
			wantRead(t, v, 0, model)
		}
	}
	must(t, v.Close())
	must(t, s.Close())
}
