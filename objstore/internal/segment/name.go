package segment

import (
	"fmt"
	"path"
	"strings"

	"github.com/google/uuid"

	"varve/objstore/internal/record"
)

// Dir is the directory of the segments, relative to the store.
const Dir = "segments"

// Name returns the path of a segment's file, relative to the store.
func Name(id uint32) string { return fmt.Sprintf("%s/%08x.seg", Dir, id) }

// ObjectLogName returns the path of a segment's object log, relative to the store.
func ObjectLogName(id uint32) string { return fmt.Sprintf("%s/%08x.dir", Dir, id) }

// DraftName returns the path of a shortened object log that has no name yet, relative to the store.
func DraftName(id uint32) string { return ObjectLogName(id) + draftSuffix }

const draftSuffix = ".new"

// IsDraft reports whether the name of a file in Dir is one of DraftName's. After a crash such a
// file counts for nothing.
func IsDraft(name string) bool {
	log, ok := strings.CutSuffix(name, draftSuffix)
	if !ok {
		return false
	}
	_, isLog, ok := ParseName(log)
	return ok && isLog
}

// ObjectLogID identifies the object log of a segment.
func ObjectLogID(store uuid.UUID, id uint32) record.ID {
	return record.ID{Kind: record.ObjectLog, Store: store, Number: uint64(id)}
}

// ParseName returns the segment that a file in Dir belongs to, and whether the file is the object
// log. It accepts only the spelling that Name and ObjectLogName write.
func ParseName(name string) (id uint32, objectLog, ok bool) {
	if _, err := fmt.Sscanf(name, "%08x.", &id); err != nil || id == 0 {
		return 0, false, false
	}
	switch name {
	case path.Base(Name(id)):
		return id, false, true
	case path.Base(ObjectLogName(id)):
		return id, true, true
	}
	return 0, false, false
}
