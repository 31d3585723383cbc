package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

var errTable = errors.New("damaged table")

// verifyTables checks the tables on disk before badger sees them, for badger ends the process when
// it opens a damaged one: it asserts, or panics on goroutines of its own (table.go, levels.go,
// v4.9.6). A quick check reads of each table its index, its first block and its last; a full one
// reads everything.
func verifyTables(dir string, full bool) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if !ownName(filepath.Base(name)) {
			continue
		}
		if err := verifyTable(name, full); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// verifyTable follows badger's table format: blocks, index, its length, its checksum, that one's
// length; lengths are 4 bytes, big endian.
func verifyTable(name string, full bool) (err error) {
	defer func() {
		if recover() != nil { // flatbuffers follows any offset that it finds, and badger any kind of checksum
			err = errTable
		}
	}()
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := info.Size()
	// before returns the n bytes that end where the last ones began.
	before := func(n int64) ([]byte, error) {
		if n < 0 || n > end {
			return nil, errTable
		}
		end -= n
		b := make([]byte, n)
		_, err := f.ReadAt(b, end)
		return b, err
	}
	field := func() ([]byte, error) {
		b, err := before(4)
		if err != nil {
			return nil, err
		}
		return before(int64(binary.BigEndian.Uint32(b)))
	}
	sum, err := field()
	if err != nil {
		return err
	}
	data, err := field()
	if err != nil {
		return err
	}
	if err := verifySum(data, sum); err != nil {
		return err
	}
	return verifyBlocks(f, info.Size(), fb.GetRootAsTableIndex(data, 0), full)
}

func verifySum(data, sum []byte) error {
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return err
	}
	if want.Algo == pb.Checksum_CRC32C && want.Sum == 0 {
		return errTable // what zeroes would pass for
	}
	return y.VerifyChecksum(data, &want)
}

func verifyBlocks(f *os.File, size int64, index *fb.TableIndex, full bool) error {
	n := index.OffsetsLength()
	for i := 0; i < n; i++ {
		if !full && i != 0 && i != n-1 {
			continue
		}
		var at fb.BlockOffset
		if !index.Offsets(&at, i) {
			return errTable
		}
		if int64(at.Offset())+int64(at.Len()) > size {
			return errTable
		}
		b := make([]byte, at.Len())
		if _, err := f.ReadAt(b, int64(at.Offset())); err != nil {
			return err
		}
		if len(b) < 4 {
			return errTable
		}
		body := b[:len(b)-4]
		sum := int64(binary.BigEndian.Uint32(b[len(body):]))
		if sum > int64(len(body)) {
			return errTable
		}
		if err := verifySum(body[:int64(len(body))-sum], body[int64(len(body))-sum:]); err != nil {
			return fmt.Errorf("block %d at byte %d: %w", i, at.Offset(), err)
		}
	}
	return nil
}
