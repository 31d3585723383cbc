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
	must(t, fs.Mkdir("journal"))
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
	j, err := createJournal(fs, goldenStore, goldenVolume, 3, origin{"boot", "mount"}, 1024)
	must(t, err)
	// As older versions write it, and as it is in a file of which nothing is known.
	j.header = encodeJournalHeader(goldenStore, goldenVolume, 3, origin{"boot", "mount"})
	_, err = j.file.WriteAt(j.header, 0)
	must(t, err)
	header := bytes.Clone(j.header)
	setJournalWriter(header, vfs.Identity{Inode: 0xe1, Generation: 0xe2, Birth: 0xe3})
	setJournalClosing(header, 0xe4)
	out["journal-header"] = header
	for _, r := range []journalRecord{
		{kind: recordData, sector: 8, count: 16, segment: 7, block: 9},
		{kind: recordHole, sector: 100, count: 1 << 30},
		{kind: recordCommit, sector: 2},
		{kind: recordData, sector: 9, count: 1, segment: 7, block: 11},
		{kind: recordCommit, flags: flagFinal, sector: 4},
	} {
		must(t, j.append(&r))
	}
	out["journal"] = fileBytes(t, j.file)[:journalHeader+6*recordSize]
	j.close()
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
	rp, err := readJournal(memWith(t, "journal/x", b["journal"]), "journal/x", goldenStore, goldenVolume, 3,
		func(boot, mount bool) cacheTrust { return cacheTrust{cache: boot && mount} }, origin{"boot", "mount"})
	must(t, err)
	if len(rp.records) != 3 || !rp.final || !rp.trusted || rp.whole != 5 || rp.covered != 4 {
		t.Errorf("journal %+v", rp)
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
