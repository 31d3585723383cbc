package objstore

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

var (
	goldenStore  = uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
	goldenVolume = uuid.MustParse("ffeeddcc-bbaa-9988-7766-554433221100")
)

func goldenHash(b byte) merkle.Hash { return merkle.Hash(bytes.Repeat([]byte{b}, 32)) }

// goldenFormats encodes one of everything that varve writes to a disk.
func goldenFormats(t testing.TB) map[string][]byte {
	sb := superblock{chunkSize: 16384, id: goldenStore, created: time.Unix(1700000000, 5)}
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir("refs"))
	must(t, fs.Mkdir("segments"))
	named := sb
	named.name = goldenVolume
	out := map[string][]byte{
		"superblock-named": named.encode(),
		"superblock":       sb.encode(),
	}
	log, err := record.Create(fs, refsFile, refsID(goldenStore))
	must(t, err)
	at := time.Unix(1700000000, 0).UTC()
	for _, recs := range [][]refRecord{
		{{Op: opSegments, Gen: 65}},
		{{Op: opVolume, ID: goldenVolume, Name: "vol", Size: 10 << 30, BlockSize: 512, Time: at}},
		{
			{Op: opHead, ID: goldenVolume, Gen: 3, Root: goldenHash(0xb2).String(), Logical: 16384},
			{Op: opSnap, ID: goldenVolume, Name: "snap", Gen: 3, Root: goldenHash(0xb2).String(), Logical: 16384, Time: at},
		},
	} {
		b, err := json.Marshal(recs)
		must(t, err)
		must(t, log.Append(b))
	}
	out["refs"] = disktest.ReadFile(t, fs, refsFile)
	return out
}

func fileBytes(t testing.TB, f vfs.File) []byte {
	t.Helper()
	c, err := disk.ReadContent(f)
	must(t, err)
	must(t, c.Err)
	return c.Data
}

func TestGolden(t *testing.T) {
	for name, b := range goldenFormats(t) {
		golden.Check(t, name, b)
	}
}

// What was encoded is decoded to the same.
func TestGoldenDecode(t *testing.T) {
	b := goldenFormats(t)
	sb, err := decodeSuperblock(b["superblock"])
	must(t, err)
	if sb.chunkSize != 16384 || sb.id != goldenStore || !sb.created.Equal(time.Unix(1700000000, 5)) {
		t.Errorf("superblock %+v", sb)
	}
	r := newRefs()
	_, err = record.Open(memWith(t, "refs/log", b["refs"]), []string{"refs/log"}, refsID(goldenStore), false, r.applyFrame)
	must(t, err)
	if v := r.volumes["vol"]; v == nil || v.gen != 3 || v.root != goldenHash(0xb2) || !v.snaps["snap"].settled {
		t.Errorf("refs %+v", r)
	}
}

// memWith is a file system with one file.
func memWith(t testing.TB, name string, data []byte) *vfs.Mem {
	t.Helper()
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(filepath.Dir(name)))
	f, err := fs.Create(name)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, f.Datasync())
	must(t, f.Close())
	must(t, fs.SyncDir(filepath.Dir(name)))
	must(t, fs.SyncDir("."))
	return fs
}
