package segment

import (
	"bytes"
	"errors"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/record"
)

func FuzzHeader(f *testing.F) {
	h := Header{ID: 7, Store: disktest.Store, Capacity: 256 << 20, Footer: 8192}
	f.Add(h.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, disktest.Seal(b, 508)} {
			h, err := DecodeHeader(b, 7, disktest.Store)
			if err != nil {
				continue
			}
			if h.Capacity < disk.BlockSize || h.Capacity%disk.BlockSize != 0 || h.Footer < 0 {
				t.Fatalf("capacity %d, footer %d", h.Capacity, h.Footer)
			}
			if again, err := DecodeHeader(h.Encode(), 7, disktest.Store); err != nil || again != h {
				t.Fatalf("%+v becomes %+v, %v", h, again, err)
			}
		}
	})
}

// A segment with any footer opens; the footer is read, or is a CorruptError.
func FuzzFooter(f *testing.F) {
	footer := EncodeFooter(7, goldenObjects())
	f.Add(footer, true)
	f.Add(footer[len(footer)-TrailerSize:], false)
	f.Add([]byte("less than a trailer"), false)
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		if len(b) == 0 || len(b) > 1<<20 {
			return
		}
		b = bytes.Clone(b)
		h := Header{ID: 7, Store: disktest.Store, Capacity: 2 * disk.BlockSize, Footer: int64(len(b))}
		if repair && len(b) >= TrailerSize {
			trailer := b[len(b)-TrailerSize:]
			copy(trailer, trailerMagic)
			le.PutUint32(trailer[8:], disk.Version)
			le.PutUint32(trailer[12:], h.ID)
			if n := int(le.Uint32(trailer[16:])) * ObjectSize; n >= 0 && n <= len(b)-TrailerSize {
				le.PutUint32(trailer[20:], disk.Checksum(b[:n]))
			}
			copy(trailer, disktest.Seal(trailer, 60))
		}
		fs := disktest.FS(t, Name(7), h.Encode())
		file, err := fs.Open(Name(7))
		must(t, err)
		_, err = file.WriteAt(b, h.Capacity)
		must(t, err)
		g, err := Open(t.Context(), fs, 7, disktest.Store, false)
		must(t, err) // a damaged footer is no reason not to open
		all, err := g.ReadFooter()
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		for block := range uint32(8) {
			all.Find(block)
		}
		objs, err := DecodeObjects(all)
		if err == nil && !bytes.Equal(EncodeObjects(objs), zeroTails(all)) {
			t.Fatal("objects are encoded otherwise")
		}
	})
}

// zeroTails returns entries without what the encoding leaves unused.
func zeroTails(all Entries) []byte {
	b := bytes.Clone(all)
	for i := 0; i < len(b); i += ObjectSize {
		clear(b[i+41 : i+ObjectSize])
	}
	return b
}

// An open segment with an object log of any frames.
func FuzzObjectLog(f *testing.F) {
	log, _ := goldenFiles(f)
	f.Add(log[record.HeaderSize:])
	fs, _ := shortened(f)
	f.Add(disktest.ReadFile(f, fs, ObjectLogName(7))[record.HeaderSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		h := Header{ID: 7, Store: disktest.Store, Capacity: 2 * disk.BlockSize}
		fs := disktest.FS(t, Name(7), h.Encode())
		l, err := record.Create(fs, ObjectLogName(7), ObjectLogID(disktest.Store, 7))
		must(t, err)
		for len(b) >= 8 { // as in a log: a checksum, a length, the payload, padding
			n := int(min(int64(le.Uint32(b[4:])), int64(len(b)-8)))
			if n == 0 {
				break
			}
			must(t, l.Append(b[8:8+n]))
			b = b[min(disk.RoundUp(int64(8+n), 8), int64(len(b))):]
		}
		must(t, l.Close())
		g, err := Open(t.Context(), fs, 7, disktest.Store, true)
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		for block, o := range g.objects {
			if o.Block != block || !o.Kind.Valid() || o.Length == 0 || o.Length > disk.MaxChunkSize {
				t.Fatalf("block %d holds %+v", block, o)
			}
		}
	})
}
