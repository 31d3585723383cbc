package objstore

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}

// Volumes that nobody uses, and that have settled, keep no files open to take writes, however many
// there are, and take writes again when somebody opens them. What is left is the segment that their
// data lies in.
func TestIdleVolumesHoldNoFiles(t *testing.T) {
	dir := t.TempDir()
	must(t, Init(dir, InitOptions{ChunkSize: 4096}))
	s := openTest(t, dir, Options{SegmentSize: 4 * smallestSegment, SettleDelay: time.Millisecond})
	defer s.Close()
	const volumes = 12
	use := func(i int, fill uint64) {
		t.Helper()
		name := fmt.Sprint("v", i)
		if _, err := s.VolumeInfo(name); err != nil {
			_, err := s.CreateVolume(t.Context(), name, VolumeOptions{Size: 1 << 20})
			must(t, err)
		}
		v, err := s.OpenVolume(name, "test")
		must(t, err)
		_, err = v.WriteAt(randomBytes(fill, 8192), 0)
		must(t, err)
		wantRead(t, v, 0, randomBytes(fill, 8192))
		must(t, v.Close())
	}
	use(0, 1)
	must(t, s.Settle(t.Context()))
	rest := func(most int, of string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); openFiles(t) > most; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d volumes that nobody uses, %s: %d files are open, want at most %d", volumes, of, openFiles(t), most)
			}
		}
	}
	before := openFiles(t)
	for i := range volumes {
		name := fmt.Sprint("empty", i)
		_, err := s.CreateVolume(t.Context(), name, VolumeOptions{Size: 1 << 20})
		must(t, err)
		v, err := s.OpenVolume(name, "test")
		must(t, err)
		must(t, v.Close())
	}
	rest(before, "never written")
	for round := range 3 {
		for i := range volumes {
			use(i, uint64(10*i+round))
		}
		must(t, s.Settle(t.Context()))
	}
	rest(before+3*volumes, "written at once") // the pool's segments by two descriptors, and their object logs
	for i := range volumes {
		use(i, uint64(100+i))
	}
}

// Volumes that are written one after the other share an append segment: what is open does not grow
// with their number.
func TestRestingVolumesShareAppendSegment(t *testing.T) {
	dir := t.TempDir()
	must(t, Init(dir, InitOptions{ChunkSize: 4096}))
	o := Options{SegmentSize: 4 * smallestSegment, SettleDelay: -1}
	s := openTest(t, dir, o)
	const volumes = 8
	var after int
	for i := range volumes {
		name := fmt.Sprint("v", i)
		_, err := s.CreateVolume(t.Context(), name, VolumeOptions{Size: 1 << 20})
		must(t, err)
		v, err := s.OpenVolume(name, "test")
		must(t, err)
		_, err = v.WriteAt(randomBytes(uint64(i), 8192), 0)
		must(t, err)
		must(t, v.Flush())
		must(t, v.Close())
		must(t, s.Settle(t.Context()))
		must(t, v.deactivate())
		if n := openFiles(t); i == 0 {
			after = n
		} else if n > after {
			t.Fatalf("%d volumes that nobody uses: %d files are open; with one there were %d", i+1, n, after)
		}
	}
	must(t, s.Close())
	s = openTest(t, dir, o)
	defer s.Close()
	for i := range volumes {
		v, err := s.OpenVolume(fmt.Sprint("v", i), "test")
		must(t, err)
		wantRead(t, v, 0, randomBytes(uint64(i), 8192))
		must(t, v.Close())
	}
}

// A volume syncs an append segment that it has from the pool as its own, although the volume before
// had it in its list of segments to sync.
func TestSegmentOfPoolIsSynced(t *testing.T) {
	for seed := range uint64(8) {
		r := newRig(t, Options{SegmentSize: 4 * smallestSegment})
		a := r.volume("a", 1<<20)
		r.write(a, randomBytes(1, 8192), 0)
		must(t, r.s.Settle(t.Context())) // without a flush of a's
		g := a.appendSegment
		must(t, a.Close())
		must(t, a.deactivate())
		b := r.volume("b", 1<<20)
		r.write(b, randomBytes(3, 8192), 0)
		if b.appendSegment != g {
			t.Fatal("the segment of a resting volume is not used again: this proves nothing")
		}
		must(t, b.Flush())
		must(t, r.reopened(r.mem.PowerCut(newRand(seed)), "next boot"))
		wantRead(t, r.volume("b", 1<<20), 0, randomBytes(3, 8192))
		wantRead(t, r.volume("a", 1<<20), 0, randomBytes(1, 8192))
	}
}
