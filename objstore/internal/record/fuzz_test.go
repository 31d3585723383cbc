package record

import (
	"bytes"
	"errors"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
)

var goldenID = ID{Kind: Refs, Store: disktest.Store}

// goldenLog is a log of two frames with its end mark.
func goldenLog(t testing.TB) []byte {
	fs := disktest.FS(t, "other", nil)
	l, err := Create(fs, "log", goldenID)
	must(t, err)
	must(t, l.Append([]byte("a frame of 19 bytes")))
	must(t, l.Append([]byte("one of 16 bytes.")))
	must(t, l.Close())
	return disktest.ReadFile(t, fs, "log")
}

func TestGolden(t *testing.T) {
	golden.Check(t, "log", goldenLog(t))
	golden.Check(t, "header-objectlog", ID{Kind: ObjectLog, Store: disktest.Store, Number: 7}.header())
}

func TestGoldenDecode(t *testing.T) {
	var frames []string
	fs := disktest.FS(t, "log", goldenLog(t))
	l, err := Open(t.Context(), fs, []string{"log"}, goldenID, false, func(p []byte) error { frames = append(frames, string(p)); return nil })
	must(t, err)
	if len(frames) != 2 || frames[0] != "a frame of 19 bytes" || frames[1] != "one of 16 bytes." {
		t.Errorf("frames %q", frames)
	}
	must(t, l.Close())
}

// withFrames is a log of any bytes, whose frames get good checksums as far as their lengths make
// sense.
func withFrames(header, b []byte) []byte {
	s := seed(disk.Checksum(header))
	data := append(bytes.Clone(header), b...)
	for off := int64(HeaderSize); off+frameHeader <= int64(len(data)); {
		n := int64(le.Uint32(data[off+4:]))
		if n == 0 || off+frameHeader+n > int64(len(data)) {
			break
		}
		le.PutUint32(data[off:], s.sum(off, data[off+4:off+frameHeader+n]))
		off += disk.RoundUp(frameHeader+n, frameAlign)
	}
	return data
}

// A log of any bytes: no frame is invented, and what Open leaves is good.
func FuzzLog(f *testing.F) {
	log := goldenLog(f)
	f.Add(log[HeaderSize:], uint16(0))
	f.Add(log[HeaderSize:], uint16(77))
	f.Fuzz(func(t *testing.T, b []byte, damage uint16) {
		if len(b) > 1<<16 {
			return
		}
		data := withFrames(goldenID.header(), b)
		if i := int(damage); i < len(data) && i > 0 {
			data[i] ^= 1
		}
		fs := disktest.FS(t, "log", data)
		var frames [][]byte
		keep := func(p []byte) error { frames = append(frames, bytes.Clone(p)); return nil }
		opened, err := Open(t.Context(), fs, []string{"log"}, goldenID, damage%2 == 0, keep)
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		must(t, opened.Append([]byte("one more")))
		must(t, opened.VerifyCopy(t.Context(), 0))
		want := append(frames, []byte("one more"))
		frames = nil
		if _, err := Open(t.Context(), fs, []string{"log"}, goldenID, false, keep); err != nil {
			t.Fatalf("open again: %v", err)
		}
		if len(frames) != len(want) {
			t.Fatalf("%d frames, then %d", len(want), len(frames))
		}
		for i := range want {
			if !bytes.Equal(frames[i], want[i]) {
				t.Fatalf("frame %d changed", i)
			}
		}
	})
}
