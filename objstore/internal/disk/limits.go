package disk

import "fmt"

// Version of all formats.
const Version = 1

// The units of the formats, in bytes.
const (
	SectorSize = 512  // of offsets and lengths inside a volume
	BlockSize  = 4096 // of offsets inside a segment; a page
)

// Limits that decoders enforce.
const (
	MinChunkSize  = 4 << 10  // bytes
	MaxChunkSize  = 64 << 10 // bytes; no object is longer
	MaxVolumeSize = 1 << 46  // bytes
)

// CheckChunkSize returns ErrInvalid unless n bytes is a size that chunks may have.
func CheckChunkSize(n int) error {
	if n < MinChunkSize || n > MaxChunkSize || n&(n-1) != 0 {
		return fmt.Errorf("chunk size %d bytes: %w: want 4096, 8192, 16384, 32768 or 65536", n, ErrInvalid)
	}
	return nil
}

// RoundUp returns the smallest multiple of to that is not below n.
func RoundUp(n, to int64) int64 { return (n + to - 1) / to * to }
