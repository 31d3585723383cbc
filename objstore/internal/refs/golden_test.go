package refs

import (
	"bytes"
	"log/slog"
	"maps"
	"testing"
	"time"

	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

const chunkSize = 16384

var quiet = slog.New(slog.DiscardHandler)

func goldenHash(b byte) merkle.Hash { return merkle.Hash(bytes.Repeat([]byte{b}, merkle.HashSize)) }

func goldenSuperblock() Superblock {
	return Superblock{ChunkSize: chunkSize, ID: disktest.Store, Created: time.Unix(1700000000, 5)}
}

// goldenLog is a log of three frames.
func goldenLog(t testing.TB) []byte {
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(Dir))
	must(t, Create(fs, disktest.Store))
	l, _, err := Open(t.Context(), fs, disktest.Store, chunkSize, quiet)
	must(t, err)
	at := time.Unix(1700000000, 0).UTC()
	must(t, l.Append([]Record{{Op: OpSegments, Gen: 65}}))
	must(t, l.Append([]Record{{Op: OpVolume, ID: disktest.Volume, Name: "vol", Size: 10 << 30, BlockSize: 512, Time: at}}))
	must(t, l.Append([]Record{
		{Op: OpHead, ID: disktest.Volume, Gen: 3, Root: goldenHash(0xb2).String(), Logical: 16384},
		{Op: OpSnapshot, ID: disktest.Volume, Name: "snap", Gen: 3, Root: goldenHash(0xb2).String(), Logical: 16384, Time: at},
	}))
	must(t, l.Close())
	b := disktest.ReadFile(t, fs, LogFile)
	if !bytes.Equal(b, disktest.ReadFile(t, fs, LogCopy)) {
		t.Error("the copies of the log differ")
	}
	return b
}

// goldenResized is what goldenLog leads to, in a volume that was resized since, compacted.
func goldenResized(t testing.TB) []byte {
	s := goldenState(t)
	must(t, s.ApplyFrame([]byte(`[{"op":"resize","id":"ffeeddcc-bbaa-9988-7766-554433221100","gen":3,`+
		`"root":"`+goldenHash(0xc3).String()+`","size":21474836480,"logical":16384}]`)))
	var all []byte
	must(t, s.frames(func(payload []byte) error { all = append(all, payload...); return nil }))
	return all
}

// goldenLimited is the same of a volume with a quota and a reservation.
func goldenLimited(t testing.TB) []byte {
	s := goldenState(t)
	must(t, s.ApplyFrame([]byte(`[{"op":"limits","id":"ffeeddcc-bbaa-9988-7766-554433221100","quota":1073741824,"reserve":4096}]`)))
	var all []byte
	must(t, s.frames(func(payload []byte) error { all = append(all, payload...); return nil }))
	return all
}

// goldenState is what goldenLog leads to.
func goldenState(t testing.TB) *State {
	s := NewState(chunkSize)
	_, err := record.Open(t.Context(), disktest.FS(t, LogFile, goldenLog(t)), []string{LogFile}, LogID(disktest.Store), false, s.ApplyFrame)
	must(t, err)
	return s
}

// goldenRetired is what goldenLog leads to, and segments that were retired since, compacted.
func goldenRetired(t testing.TB) []byte {
	s := goldenState(t)
	must(t, s.ApplyFrame([]byte(`[{"op":"segments","gen":13,"dirs":{"7":4096,"9":512}}]`)))
	must(t, s.ApplyFrame([]byte(`[{"op":"retired","retired":[7,12]}]`)))
	var all []byte
	must(t, s.frames(func(payload []byte) error { all = append(all, payload...); return nil }))
	return all
}

func TestGolden(t *testing.T) {
	golden.Check(t, "log", goldenLog(t))
	golden.Check(t, "frames-retired", goldenRetired(t))
	golden.Check(t, "frames-resized", goldenResized(t))
	golden.Check(t, "frames-limited", goldenLimited(t))
	sb := goldenSuperblock()
	golden.Check(t, "superblock", sb.Encode())
	sb.KnownAs = disktest.Volume
	golden.Check(t, "superblock-named", sb.Encode())
}

func TestGoldenDecode(t *testing.T) {
	want := goldenSuperblock()
	sb, err := decodeSuperblock(want.Encode())
	must(t, err)
	if sb.ChunkSize != want.ChunkSize || sb.ID != want.ID || !sb.Created.Equal(want.Created) || sb.Known() != want.ID {
		t.Errorf("superblock %+v", sb)
	}
	s := goldenState(t)
	if v := s.Volumes["vol"]; v == nil || v.Gen != 3 || v.Root != goldenHash(0xb2) || !v.Snapshots["snap"].Settled {
		t.Errorf("refs %+v", s)
	}
}

// A superblock of any bytes, and of bytes with a good checksum, is encoded as it was decoded.
func FuzzSuperblock(f *testing.F) {
	sb := goldenSuperblock()
	f.Add(sb.Encode())
	sb.Features = NewFeatures(Rename, Quota, 100)
	sb.nameText = "rename\x00quota\x00hints"
	f.Add(sb.Encode())
	f.Add([]byte(superblockMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, disktest.Seal(b, offChecksum)} {
			sb, err := decodeSuperblock(b)
			if err != nil {
				continue
			}
			again, err := decodeSuperblock(sb.Encode())
			if err != nil || *again != *sb {
				t.Fatalf("%+v becomes %+v, %v", sb, again, err)
			}
		}
	})
}

// What frames of any bytes lead to can be written down, and read again.
func FuzzState(f *testing.F) {
	f.Add([]byte(`[{"op":"volume","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"v","size":4096,"block_size":512}]`),
		[]byte(`[{"op":"snapshot","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"s","gen":1}]`))
	f.Add([]byte(`[{"op":"volume","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"v","size":4096,"block_size":512}]`),
		[]byte(`[{"op":"snapshot","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"s","gen":1},`+
			`{"op":"resize","id":"ffeeddcc-bbaa-9988-7766-554433221100","gen":1,"size":8192}]`))
	f.Add([]byte(`[{"op":"volume","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"v","size":4096,"block_size":512,"mark":"m"}]`),
		[]byte(`[{"op":"rename","id":"ffeeddcc-bbaa-9988-7766-554433221100","to":"w"},{"op":"snapshot","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"s"},`+
			`{"op":"snapshot-rename","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"s","to":"t"}]`))
	f.Add([]byte(`[{"op":"segments","gen":9,"dirs":{"7":512}}]`), []byte(`[{"op":"retired","retired":[7,8]}]`))
	f.Add([]byte(`[{"op":"head"}]`), []byte(`[{"op":"segments","gen":18446744073709551615}]`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		s := NewState(chunkSize)
		if s.ApplyFrame(a) != nil || s.ApplyFrame(b) != nil {
			return
		}
		again := NewState(chunkSize)
		for rec := range s.Records {
			if err := again.Apply(&rec); err != nil {
				t.Fatalf("%+v: %v", rec, err)
			}
		}
		if len(again.Volumes) != len(s.Volumes) || again.Segments != s.Segments || !maps.Equal(again.Retired, s.Retired) ||
			!maps.Equal(again.ObjectLogs, s.ObjectLogs) {
			t.Fatalf("%+v becomes %+v", s, again)
		}
		for name, v := range s.Volumes {
			w := again.Volumes[name]
			if w.Size != v.Size || w.Gen != v.Gen || len(w.Order) != len(v.Order) {
				t.Fatalf("%+v becomes %+v", v, w)
			}
			for i, sn := range v.Order {
				if *w.Order[i] != *sn {
					t.Fatalf("%+v becomes %+v", sn, w.Order[i])
				}
			}
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
