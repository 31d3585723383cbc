package objstore

import (
	"bytes"
	"errors"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// The decoders meet what is on a disk, whatever that is. Each fuzz test tries the bytes as they are, and with
// their checksum mended, so that what lies behind the checksum is tried too.

func sealSum(b []byte, at int) []byte {
	b = bytes.Clone(b)
	if len(b) >= at+4 {
		le.PutUint32(b[at:], disk.Checksum(b[:at]))
	}
	return b
}

func FuzzSuperblock(f *testing.F) {
	f.Add(goldenFormats(f)["superblock"])
	f.Add([]byte(superblockMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sealSum(b, superblockCRC)} {
			sb, err := decodeSuperblock(b)
			if err != nil {
				continue
			}
			again, err := decodeSuperblock(sb.encode())
			if err != nil || *again != *sb {
				t.Fatalf("%+v becomes %+v, %v", sb, again, err)
			}
		}
	})
}

func FuzzRefs(f *testing.F) {
	f.Add([]byte(`[{"op":"volume","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"v","size":4096,"block_size":512}]`),
		[]byte(`[{"op":"snapshot","id":"ffeeddcc-bbaa-9988-7766-554433221100","name":"s","gen":1}]`))
	f.Add([]byte(`[{"op":"head"}]`), []byte(`[{"op":"segments","gen":18446744073709551615}]`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		r := newRefs()
		if r.applyFrame(a) != nil || r.applyFrame(b) != nil {
			return
		}
		// What it leads to can be written down and read again.
		again := newRefs()
		for rec := range r.records {
			if err := again.apply(&rec); err != nil {
				t.Fatalf("%+v: %v", rec, err)
			}
		}
		if len(again.volumes) != len(r.volumes) || again.segments != r.segments {
			t.Fatalf("%+v becomes %+v", r, again)
		}
	})
}

func FuzzJournal(f *testing.F) {
	j := goldenFormats(f)["journal"]
	f.Add(j[journalHeader:], false, uint16(0))
	f.Add(j[journalHeader:], true, uint16(40))
	f.Fuzz(func(t *testing.T, b []byte, trusted bool, damage uint16) {
		if len(b) > 1<<16 {
			return
		}
		header := encodeJournalHeader(goldenStore, goldenVolume, 3, origin{"boot", "mount"})
		data := append(header, make([]byte, journalHeader-len(header))...)
		data = append(data, b...)
		seed := disk.Checksum(header[:56])
		for i := 0; journalHeader+(i+1)*recordSize <= len(data); i++ { // mend what has a valid type
			if r := data[journalHeader+i*recordSize:]; r[4] >= recordData && r[4] <= recordCommit {
				rec := journalRecord{
					kind: r[4], flags: r[5], sector: le.Uint64(r[8:]), count: le.Uint64(r[16:]),
					segment: le.Uint32(r[24:]), block: le.Uint32(r[28:]),
				}
				rec.encode(r[:recordSize], seed+uint32(i))
			}
		}
		if i := int(damage); i < len(data) && i > 0 {
			data[i] ^= 1
		}
		fs := memWith(t, "journal/x", data)
		rp, err := readJournal(fs, "journal/x", goldenStore, goldenVolume, 3, func(bool, bool) cacheTrust { return cacheTrust{cache: trusted} }, origin{"boot", "mount"})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if len(rp.records) > rp.whole || rp.covered > rp.whole || !trusted && len(rp.records) > rp.covered {
			t.Fatalf("%d records, %d whole, %d covered", len(rp.records), rp.whole, rp.covered)
		}
		if rp.whole == 0 {
			return
		}
		// Once finished it reads the same, after a power cut too.
		must(t, rp.finish(fs, goldenStore, goldenVolume))
		cut := fs.PowerCut(newRand(uint64(len(b))))
		again, err := readJournal(cut, "journal/x", goldenStore, goldenVolume, 3, func(bool, bool) cacheTrust { return cacheTrust{} }, origin{"boot2", "mount2"})
		if errors.Is(err, vfs.ErrCut) || err != nil {
			t.Fatalf("read again: %v", err)
		}
		if len(again.records) != len(rp.records) || !again.final {
			t.Fatalf("%d records, then %d, final %v", len(rp.records), len(again.records), again.final)
		}
	})
}
