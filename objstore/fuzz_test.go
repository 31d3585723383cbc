package objstore

import (
	"bytes"
	"testing"

	"varve/objstore/internal/disk"
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
