package merkle

import (
	"encoding/hex"
	"fmt"

	"varve/objstore/internal/disk"
)

// HashSize is the length of a Hash in bytes.
const HashSize = 32

// Hash names an object: its BLAKE3-256, see [Sum]. The zero Hash stands for a chunk, or a subtree,
// of zeroes.
type Hash [HashSize]byte

// String returns the hash in hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h stands for zeroes.
func (h Hash) IsZero() bool { return h == Hash{} }

// ParseHash reads the 64 hexadecimal digits that String writes. The error wraps disk.ErrInvalid.
func ParseHash(s string) (Hash, error) {
	var h Hash
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("root %q: %w: want 64 hexadecimal digits", s, disk.ErrInvalid)
	}
	copy(h[:], b)
	return h, nil
}
