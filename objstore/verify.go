package objstore

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// verifier compares settled chunks with their hashes as a plan's pieces are read. The zero value
// verifies nothing.
//
// A leaf in memory holds locations alone, 8 bytes a chunk. The hashes are in the leaf's node of the
// tree, which is itself compared with its hash in the node above when it is read, up to the root:
// so a plan remembers the root that its locations are of, and the nodes come from the cache of
// nodes (16 MiB: the leaves of 8 GiB of 16 KiB chunks) or from the disk. What has not settled yet
// has no hash.
type verifier struct {
	leaves *leafCache // nil: nothing is verified
	root   merkle.Root
	off    int64  // of the plan in the image, bytes
	image  string // the volume's name, for errors
}

// verifierFor returns the verifier of a plan that begins at off, over the tree under root. It
// verifies nothing where v is nil, or the volume does not ask for verified reads.
func (v *volume) verifierFor(root *merkle.Root, off int64) verifier {
	if v == nil || !v.verify.Load() {
		return verifier{}
	}
	return verifier{leaves: v.s.leaves, root: *root, off: off, image: v.Name()}
}

// Checked reports whether settled chunks have to be verified as they are read: by Plan.Read, and
// not by the descriptors of the pieces.
func (p *Plan) Checked() bool { return p.verifier.leaves != nil }

// Read fills buf with the planned range. It blocks. If the plan is Checked, a chunk whose bytes do
// not have its hash is a CorruptError. Reading is faster if buf is aligned to a page.
func (p *Plan) Read(buf []byte) error { return readPieces(p, buf) }

// NewBuffer returns n bytes that begin at a page.
func NewBuffer(n int) []byte { return disk.AlignedBuffer(n) }

// verifiedRun is how many bytes are read at once to be verified.
const verifiedRun = MaxRequest / 4

// verifyBuffers are for the pieces that begin or end inside a chunk.
var verifyBuffers = sync.Pool{New: func() any { b := disk.AlignedBuffer(verifiedRun); return &b }}

// read reads a settled piece into b. It reads whole chunks, since nothing less has a hash.
func (k *verifier) read(c *Piece, b []byte) error {
	size := int64(k.root.ChunkSize)
	at := k.off + int64(c.BufOff)
	end := at + int64(c.Len)
	for at < end {
		first := at / size * size
		last := min(disk.RoundUp(end, size), first+verifiedRun)
		to := min(end, last)
		run := b[:to-at]
		scratch := (*[]byte)(nil)
		if at != first || to != last {
			scratch = verifyBuffers.Get().(*[]byte)
			run = (*scratch)[:last-first]
		}
		err := k.chunks(c.seg, c.FileOff+first-(k.off+int64(c.BufOff)), first, run)
		if scratch != nil {
			copy(b[:to-at], run[at-first:])
			verifyBuffers.Put(scratch)
		}
		if err != nil {
			return err
		}
		b, at = b[to-at:], to
	}
	return nil
}

// chunks reads whole chunks of the image from byte first on, which lie at fileOff one after the
// other, and verifies them.
func (k *verifier) chunks(g *segment.File, fileOff, first int64, run []byte) error {
	if err := disk.ReadAligned(g.Data, run, fileOff); err != nil {
		return fmt.Errorf("read %s: %w", segment.Name(g.ID), err)
	}
	size := int64(k.root.ChunkSize)
	var hashes *merkle.Node
	for o := int64(0); o < int64(len(run)); o += size {
		i := (first + o) / size
		if hashes == nil || i%merkle.FanOut == 0 {
			var err error
			if hashes, err = k.leaves.hashes(k.leaves.life, &k.root, i/merkle.FanOut); err != nil {
				return err
			}
			if hashes == nil {
				hashes = &merkle.Node{}
			}
		}
		want := &hashes[i%merkle.FanOut]
		if got := merkle.Sum(merkle.KindChunk, run[o:o+size]); got != *want {
			return k.bad(g, fileOff+o, i, *want, got)
		}
	}
	return nil
}

// bad logs that a chunk's bytes do not have its hash, and returns the error for its reader.
func (k *verifier) bad(g *segment.File, fileOff, chunk int64, want, got merkle.Hash) error {
	sectors := int64(k.root.ChunkSize) / SectorSize
	from := chunk * sectors
	to := min(from+sectors, k.root.Size/SectorSize) - 1
	err := &CorruptError{
		File: segment.Name(g.ID), Offset: fileOff, Object: fmt.Sprintf("chunk at sectors %d to %d of volume %s", from, to, k.image),
		Err: errors.New("its bytes do not have its hash"),
	}
	// Verified readers get an error; others read the bytes as they are, as long as nothing else is
	// known against them.
	if k.leaves.objects.Suspect(segment.At(g.ID, uint32(fileOff/disk.BlockSize)), false) {
		k.leaves.log.Error("a chunk is damaged: its bytes do not have its hash", slog.String("volume", k.image),
			slog.Int64("first_sector", from), slog.Int64("last_sector", to), slog.String("file", segment.Name(g.ID)),
			slog.Int64("offset", fileOff), slog.String("hash", want.String()), slog.String("found", got.String()))
	}
	return err
}
