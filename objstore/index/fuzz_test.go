package index

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// A table of any bytes is taken or refused; what follows would end the process. Its last checksum
// is made right, so that what lies behind it is tried too.
func FuzzTable(f *testing.F) {
	dir := f.TempDir()
	x, err := Open(dir, small)
	if err != nil {
		f.Fatal(err)
	}
	if err := x.Put(entries(0, 300)); err != nil {
		f.Fatal(err)
	}
	if err := x.Close(); err != nil {
		f.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		f.Fatalf("badger made no table (%v)", err)
	}
	good, err := os.ReadFile(tables[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	f.Add(good[len(good)/2:], true)
	f.Add([]byte{0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, b []byte, full bool) {
		if len(b) > 1<<20 {
			return
		}
		for _, b := range [][]byte{b, mendTable(b)} {
			name := filepath.Join(t.TempDir(), "000001.sst")
			must(t, os.WriteFile(name, b, 0o600))
			_ = verifyTable(name, full) // either answer will do, as long as there is one
		}
	})
	if err := verifyTable(tables[0], true); err != nil {
		f.Fatalf("a good table: %v", err)
	}
}

// mendTable returns the table with the checksum that its index should have.
func mendTable(b []byte) []byte {
	end := len(b)
	field := func() []byte {
		if end < 4 {
			return nil
		}
		n := int(binary.BigEndian.Uint32(b[end-4:]))
		if end -= 4; n > end {
			return nil
		}
		end -= n
		return b[end : end+n]
	}
	sum := field()
	index := field()
	if sum == nil || index == nil {
		return b
	}
	right, err := proto.Marshal(&pb.Checksum{Algo: pb.Checksum_CRC32C, Sum: y.CalculateChecksum(index, pb.Checksum_CRC32C)})
	if err != nil {
		return b
	}
	out := append([]byte(nil), b[:end+len(index)+4]...)
	out = append(out, right...)
	return binary.BigEndian.AppendUint32(out, uint32(len(right)))
}
