// Package wire encodes and decodes the NBD protocol as a client speaks it: the fixed newstyle
// handshake, requests, and simple and structured replies (the protocol's specification is
// doc/proto.md of the NBD project). It trusts no byte of a server: lengths are checked before memory is
// made for them, and what the protocol does not allow is ErrProtocol.
//
// All numbers are big-endian. A request, and behind it the bytes of a write:
//
//	0          4       6      8              16              24        28
//	+----------+-------+------+--------------+---------------+---------+
//	| 25609513 | flags | type | cookie       | offset        | length  |
//	+----------+-------+------+--------------+---------------+---------+
//
// A simple reply, and behind it the bytes of a read that succeeded:
//
//	0          4          8              16
//	+----------+----------+--------------+
//	| 67446698 | error    | cookie       |
//	+----------+----------+--------------+
//
// A chunk of a structured reply. The last chunk of a reply has the flag DONE:
//
//	0          4       6      8              16        20
//	+----------+-------+------+--------------+---------+
//	| 668e33ef | flags | type | cookie       | length  |
//	+----------+-------+------+--------------+---------+
//	20                 28
//	+------------------+---------- - -
//	| offset           | bytes              OFFSET_DATA
//	+------------------+----------+
//	| offset           | length   |         OFFSET_HOLE
//	+---------+--------+----------+- -
//	| context | length, flags              BLOCK_STATUS: a pair for each extent
//	+---------+----+-------- - - -+--------+
//	| error   | n  | n bytes text | offset |  ERROR: without the offset; ERROR_OFFSET
//	+---------+----+-------- - - -+--------+
package wire

import (
	"errors"
	"fmt"
)

// ErrProtocol means that a server has sent what the protocol does not allow.
var ErrProtocol = errors.New("the server broke the NBD protocol")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
