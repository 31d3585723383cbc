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

// Volumes that nobody uses, and that have settled, keep no files open to take writes, however many there are, and take
// writes again when somebody opens them. What is left is the segment that their data lies in.
func TestIdleVolumesHoldNoFiles(t *testing.T) {
	dir := t.TempDir()
	must(t, Init(dir, InitOptions{ChunkSize: 4096}))
	s := openTest(t, dir, Options{SegmentSize: smallestSegment, SettleDelay: time.Millisecond})
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
	rest(before+3*volumes, "written") // a segment by two descriptors, and its directory
	for i := range volumes {
		use(i, uint64(100+i))
	}
}
