package fs

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"
	"time"
)

// inode returns the inode number for an identity: the same on every mount, and a different one for
// every identity. The top bit is clear, because go-fuse allocates numbers of its own from 1<<63 up;
// 0 and 1 are reserved.
func inode(kind string, id ...string) uint64 {
	sum := sha256.Sum256([]byte(kind + "\x00" + strings.Join(id, "\x00")))
	n := binary.LittleEndian.Uint64(sum[:]) &^ (1 << 63)
	if n <= 1 {
		n += 2
	}
	return n
}

// instant formats a time as part of an identity.
func instant(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
