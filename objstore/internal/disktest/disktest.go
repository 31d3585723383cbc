// Package disktest helps to test decoders of on-disk formats: file systems that hold what a decoder is to meet, and
// checksums that let mutated bytes through to what lies behind them.
package disktest

import (
	"bytes"
	"encoding/binary"
	"path"
	"testing"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// The UUIDs in golden bytes.
var (
	Store  = uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
	Volume = uuid.MustParse("ffeeddcc-bbaa-9988-7766-554433221100")
)

// FS returns a file system with one file, which is durable with its name.
func FS(t testing.TB, name string, data []byte) *vfs.Mem {
	t.Helper()
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(path.Dir(name)))
	f, err := fs.Create(name)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, f.Datasync())
	must(t, f.Close())
	must(t, fs.SyncDir(path.Dir(name)))
	must(t, fs.SyncDir("."))
	return fs
}

// ReadFile returns the bytes of a file.
func ReadFile(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	c, err := disk.ReadContent(f)
	must(t, err)
	must(t, c.Err)
	must(t, f.Close())
	return c.Data
}

// Seal returns a copy of b whose CRC-32C at offset at is that of the bytes before it: what a decoder checks behind the
// checksum is fuzzed too. Shorter bytes are returned as they are.
func Seal(b []byte, at int) []byte {
	b = bytes.Clone(b)
	if len(b) >= at+4 {
		binary.LittleEndian.PutUint32(b[at:], disk.Checksum(b[:at]))
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
