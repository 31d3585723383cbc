package format

import "encoding/binary"

const (
	snapshotMin = 40      // bytes of an entry of the snapshot table
	maxExtra    = 1 << 10 // bytes of its extra data
	// MaxSnapshot is the most bytes that an entry of the snapshot table has, padded.
	MaxSnapshot = (snapshotMin + maxExtra + 2*(1<<16-1) + 7) &^ 7
)

// Snapshot is an internal snapshot, as far as it uses clusters.
type Snapshot struct {
	ID, Name  string
	L1Offset  int64
	L1Entries int
}

// ParseSnapshot decodes the first entry of b, which is a part of the snapshot table of a file of
// fileSize bytes, and returns its length in the table.
func (g *Geometry) ParseSnapshot(b []byte, fileSize int64) (Snapshot, int, error) {
	be := binary.BigEndian
	if len(b) < snapshotMin {
		return Snapshot{}, 0, damaged("the snapshot table is cut off")
	}
	l1, id, name, extra := int64(be.Uint32(b[8:])), int(be.Uint16(b[12:])), int(be.Uint16(b[14:])), int64(be.Uint32(b[36:]))
	if extra > maxExtra {
		return Snapshot{}, 0, damaged("a snapshot with %d bytes of extra data", extra)
	}
	at := snapshotMin + int(extra)
	if len(b) < at+id+name {
		return Snapshot{}, 0, damaged("the snapshot table is cut off")
	}
	s := Snapshot{ID: string(b[at : at+id]), Name: string(b[at+id : at+id+name]), L1Offset: int64(be.Uint64(b)), L1Entries: int(l1)}
	if l1*8 > maxL1 {
		return s, 0, damaged("snapshot %q has an L1 table of %d entries", s.Name, l1)
	}
	if err := g.CheckTable("L1 table of a snapshot", be.Uint64(b), l1*8, fileSize); err != nil {
		return s, 0, err
	}
	return s, min(len(b), (at+id+name+7)&^7), nil
}
