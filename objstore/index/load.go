package index

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/ristretto/v2/z"
)

// loadBatch is how many bytes are given to badger at once.
const loadBatch = 4 << 20

// Load replaces the index in a directory by one with these entries, which are in order of their
// hashes, each once, and with marks for segments whose entries are all among them. Load writes
// badger's tables directly: entries that come in no order are written and merged many times over,
// which for tens of millions of them takes most of the time of filling a store.
func Load(dir string, o Options, entries iter.Seq[Entry], done []uint32) error {
	ix, err := Open(dir, o)
	if err != nil {
		return err
	}
	if err = load(ix.(*disk).db, entries); err == nil {
		err = ix.MarkDone(done...)
	}
	if cerr := ix.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("load index %s: %w", dir, err)
	}
	return nil
}

func load(db *badger.DB, entries iter.Seq[Entry]) error {
	w := db.NewStreamWriter()
	defer w.Cancel()
	if err := w.Prepare(); err != nil {
		return err
	}
	buf := z.NewBuffer(loadBatch+loadBatch/4, "load index")
	defer func() { _ = buf.Release() }() // memory only
	var key [keySize]byte
	var value [valueSize]byte
	key[0] = kindEntry
	kv := pb.KV{Key: key[:], Value: value[:], Version: 1, StreamId: 1}
	for e := range entries {
		copy(key[1:], e.Hash[:])
		binary.LittleEndian.PutUint32(value[:], e.Location.Segment)
		binary.LittleEndian.PutUint32(value[4:], e.Location.Block)
		if badger.KVToBuffer(&kv, buf); buf.LenNoPadding() < loadBatch {
			continue
		}
		if err := w.Write(buf); err != nil {
			return err
		}
		buf.Reset()
	}
	if err := w.Write(buf); err != nil {
		return err
	}
	return w.Flush()
}
