package image

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"varve/blockdev/target/qcow2/format"
)

// unpack reads bytes of a compressed cluster from skip on.
func (m *Image) unpack(p []byte, word uint64, skip int64) error {
	c := m.head.Packed(format.Entry{Word: word})
	b, err := m.read(c.Off, int64(c.Len))
	if err != nil {
		return err
	}
	if err := decompress(p, b, skip, m.head.Compression, m.head.ClusterSize()); err != nil {
		return fmt.Errorf("%w: compressed cluster at %d of %s: %w", format.ErrDamaged, c.Off, m.file.Path(), err)
	}
	return nil
}

// decompress fills p from skip on with what b holds. It takes no memory in the measure of what b
// claims: a cluster is a window at most.
func decompress(p, b []byte, skip int64, how format.Compression, cluster int64) error {
	var r io.Reader
	if how == format.Zstd {
		z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(uint64(max(cluster, 8<<20))))
		if err != nil {
			return err
		}
		defer z.Close()
		r = z
	} else {
		r = flate.NewReader(bytes.NewReader(b))
	}
	if _, err := io.CopyN(io.Discard, r, skip); err != nil {
		return err
	}
	_, err := io.ReadFull(r, p)
	return err
}
