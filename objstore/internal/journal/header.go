package journal

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

const (
	magic       = "varveJNL"
	headerSize  = 512
	headerBlock = disk.BlockSize // what the header takes in the file
)

// Where what lies in a header, in bytes. It is drawn in record.go.
const (
	offVersion    = 8
	offStore      = 16
	offVolume     = 32
	offGen        = 48
	offBoot       = 56 // the end of what tells the file from all others
	offMount      = 60
	offDurable    = 64
	offInode      = 72
	offBirth      = 80
	offGeneration = 88
	offClosing    = 96
	offChecksum   = 508
)

// ID tells a journal from all others.
type ID struct {
	Store, Volume uuid.UUID
	Gen           uint64 // the generation of the volume
}

// Origin identifies the kernel's page cache that a journal was written through: the boot, and the
// mount under the store.
type Origin struct{ Boot, Mount string }

// finished is the origin of a journal that a recovery has made complete.
var finished = Origin{Boot: "finished", Mount: "finished"}

// distrustMark replaces boot and mount in a journal whose records count only if they are committed.
const distrustMark = "distrust"

// header is an encoded header. Each change seals it again.
type header []byte

func newHeader(id ID, o Origin) header {
	h := make(header, headerSize)
	copy(h, magic)
	le.PutUint32(h[offVersion:], disk.Version)
	copy(h[offStore:], id.Store[:])
	copy(h[offVolume:], id.Volume[:])
	le.PutUint64(h[offGen:], id.Gen)
	le.PutUint32(h[offBoot:], disk.Checksum([]byte(o.Boot)))
	le.PutUint32(h[offMount:], disk.Checksum([]byte(o.Mount)))
	h.seal()
	return h
}

func (h header) seal() { le.PutUint32(h[offChecksum:], disk.Checksum(h[:offChecksum])) }

func (h header) sealed() bool { return disk.Checksum(h[:offChecksum]) == le.Uint32(h[offChecksum:]) }

// of reports whether the header is that of the journal that another header belongs to, whatever
// wrote it.
func (h header) of(other header) bool { return string(h[:offBoot]) == string(other[:offBoot]) }

// seed goes into the checksum of each record, together with its position: a record does not pass
// for one of another file, or of another position.
func (h header) seed() uint32 { return disk.Checksum(h[:offBoot]) }

// durable is how many records were durable when the header was written.
func (h header) durable() uint64 { return le.Uint64(h[offDurable:]) }

func (h header) setDurable(n int) {
	le.PutUint64(h[offDurable:], uint64(n))
	h.seal()
}

// writer is the identity of the file that the header was written to; older versions have left it
// unknown.
func (h header) writer() vfs.Identity {
	return vfs.Identity{
		Inode: le.Uint64(h[offInode:]), Birth: int64(le.Uint64(h[offBirth:])), Generation: le.Uint32(h[offGeneration:]),
	}
}

func (h header) setWriter(id vfs.Identity) {
	le.PutUint64(h[offInode:], id.Inode)
	le.PutUint64(h[offBirth:], uint64(id.Birth))
	le.PutUint32(h[offGeneration:], id.Generation)
	h.seal()
}

func (h header) closing() uint64 { return le.Uint64(h[offClosing:]) }

func (h header) setClosing(closing uint64) {
	le.PutUint64(h[offClosing:], closing)
	h.seal()
}

// distrusted reports a header that writeDistrust has written.
func (h header) distrusted() bool { return string(h[offBoot:offDurable]) == distrustMark }

// finished reports a journal whose last commit says what a recovery has decided that counts: what
// was served since is built on that, so it must not be decided again.
func (h header) finished() bool {
	return le.Uint32(h[offBoot:]) == disk.Checksum([]byte(finished.Boot)) &&
		le.Uint32(h[offMount:]) == disk.Checksum([]byte(finished.Mount))
}

// whyDistrusted says why the records behind the last commit don't count.
func (h header) whyDistrusted(sameBoot bool) string {
	switch {
	case h.distrusted():
		return "a sync has failed"
	case !sameBoot:
		return "it is of another boot"
	}
	return "it is of another mount"
}

// writeDistrust writes the header to the file with the mark. Best effort, on a disk that fails.
func writeDistrust(f vfs.File, h header) {
	h = append(header(nil), h...)
	copy(h[offBoot:offDurable], distrustMark)
	h.seal()
	_, _ = f.WriteAt(h, 0)
}

// Stamp writes the number of a clean close into the header of a journal that is not open. A header
// that is damaged stays as it is.
func Stamp(fs vfs.FS, name string, closing uint64) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	h := make(header, headerSize)
	if _, err = f.ReadAt(h, 0); err != nil {
		err = fmt.Errorf("read header: %w", err)
	} else if h.sealed() {
		h.setClosing(closing)
		_, err = f.WriteAt(h, 0)
	}
	return errors.Join(err, f.Close())
}
