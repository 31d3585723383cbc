package segment

import (
	"bytes"
	"slices"
	"testing"

	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/internal/merkle"
	"varve/objstore/vfs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hashOf(b byte) merkle.Hash { return merkle.Hash(bytes.Repeat([]byte{b}, merkle.HashSize)) }

func goldenObjects() []Object {
	return []Object{
		{Hash: hashOf(0xa1), Block: 1, Length: 16384, Kind: merkle.KindChunk},
		{Hash: hashOf(0xa2), Block: 5, Length: 64, Kind: merkle.NodeKind(1)},
		{Hash: hashOf(0xa3), Block: 6, Length: 64, Kind: merkle.KindRoot},
	}
}

// goldenFiles are the files of segment 7 with the golden objects: the object log before sealing, the segment after it.
func goldenFiles(t testing.TB) (objectLog, sealed []byte) {
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(Dir))
	g, err := Create(fs, 7, 1<<20, disktest.Store)
	must(t, err)
	must(t, g.Add(fs, disktest.Store, goldenObjects()))
	objectLog = disktest.ReadFile(t, fs, ObjectLogName(7))
	must(t, g.Seal(fs, disktest.Store))
	return objectLog, disktest.ReadFile(t, fs, Name(7))
}

func TestGoldenHeader(t *testing.T) {
	h := Header{ID: 7, Store: disktest.Store, Capacity: 256 << 20, Footer: 8192}
	golden.Check(t, "header", h.Encode())
	if got, err := DecodeHeader(h.Encode(), 7, disktest.Store); err != nil || got != h {
		t.Errorf("decoded as %+v, %v", got, err)
	}
	h.Footer, h.Closing = 0, 0xf1
	golden.Check(t, "header-closed", h.Encode())
	if got, err := DecodeHeader(h.Encode(), 7, disktest.Store); err != nil || got != h {
		t.Errorf("decoded as %+v, %v", got, err)
	}
}

func TestGoldenObjects(t *testing.T) {
	b := EncodeObjects(goldenObjects())
	golden.Check(t, "objects", b)
	if got, err := DecodeObjects(b); err != nil || !slices.Equal(got, goldenObjects()) {
		t.Errorf("decoded as %+v, %v", got, err)
	}
}

func TestGoldenFooter(t *testing.T) {
	objectLog, sealed := goldenFiles(t)
	golden.Check(t, "object-log", objectLog)
	golden.Check(t, "footer", sealed[1<<20:])
	if b := EncodeFooter(7, goldenObjects()); !bytes.Equal(b, sealed[1<<20:]) {
		t.Error("EncodeFooter and Seal differ")
	}
}
