package queue

import (
	"fmt"

	"varve/uring"
)

// Op is what a request asks for. The set is open: a driver describes what its kernel asks for, and
// a handler answers EOPNOTSUPP to what it does not know.
type Op uint8

// Operations of disks, and of zoned ones.
const (
	OpRead Op = iota
	OpWrite
	OpFlush
	OpDiscard
	OpWriteZeroes
	OpZoneAppend // a write to the zone at Off; Request.Appended is the answer's
	OpZoneReport // a read of Len bytes of zone descriptors, from the zone at Off on
	OpZoneReset  // the zone at Off, as those below
	OpZoneOpen   //
	OpZoneClose  //
	OpZoneFinish //
	OpZoneResetAll

	knownOps
)

// ops has the name of each operation and the way of its data.
var ops = [knownOps]struct {
	name string
	data Data
}{
	OpRead:         {"read", DataIn},
	OpWrite:        {"write", DataOut},
	OpFlush:        {"flush", NoData},
	OpDiscard:      {"discard", NoData},
	OpWriteZeroes:  {"write zeroes", NoData},
	OpZoneAppend:   {"zone append", DataOut},
	OpZoneReport:   {"zone report", DataIn},
	OpZoneReset:    {"zone reset", NoData},
	OpZoneOpen:     {"zone open", NoData},
	OpZoneClose:    {"zone close", NoData},
	OpZoneFinish:   {"zone finish", NoData},
	OpZoneResetAll: {"zone reset all", NoData},
}

func (o Op) String() string {
	if o < knownOps {
		return ops[o].name
	}
	return fmt.Sprintf("operation %d", uint8(o))
}

// Data is the way of a request's bytes.
type Data uint8

// Ways of data.
const (
	NoData  Data = iota // the request lends no buffer
	DataIn              // from the disk into the buffer, as a read's
	DataOut             // from the buffer to the disk, as a write's
)

// Data is the way of the operation's bytes.
func (o Op) Data() Data {
	if o < knownOps {
		return ops[o].data
	}
	return NoData
}

// directions are the ways of data as uring names them.
var directions = [...]uring.Direction{NoData: uring.DirRead, DataIn: uring.DirRead, DataOut: uring.DirWrite}
