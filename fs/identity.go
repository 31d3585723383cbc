package fs

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"
	"time"
)

// inode gives the inode number of the thing with this identity: the same on every mount, and another one for
// another thing. The number's top bit is clear, because go-fuse counts its own numbers up from 1<<63, and it is
// never 0 or 1, which are taken.
func inode(kind string, id ...string) uint64 {
	sum := sha256.Sum256([]byte(kind + "\x00" + strings.Join(id, "\x00")))
	n := binary.LittleEndian.Uint64(sum[:]) &^ (1 << 63)
	if n <= 1 {
		n += 2
	}
	return n
}

// instant is a time as a part of an identity.
func instant(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
