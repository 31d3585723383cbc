package journal

import (
	"fmt"
	"path"
	"strings"

	"github.com/google/uuid"
)

// Dir is the directory of the journals, relative to the store.
const Dir = "journal"

// DraftSuffix ends the name of a journal that is being created. One that has its own name was
// finished, and is damaged if it is shorter than that.
const DraftSuffix = ".new"

// Name is the path of a journal, relative to the store.
func Name(volume uuid.UUID, gen uint64) string {
	return fmt.Sprintf("%s/%s-%016x", Dir, volume, gen)
}

// Name is the path of the journal, relative to the store.
func (id ID) Name() string { return Name(id.Volume, id.Gen) }

// uuidLen is how many characters a UUID is written in.
const uuidLen = 36

// ParseName returns the volume and the generation of a file in Dir, and whether it is a draft. Only
// the one spelling that Name writes is ok: any other file is none of the store's.
func ParseName(name string) (volume uuid.UUID, gen uint64, draft, ok bool) {
	base, draft := strings.CutSuffix(name, DraftSuffix)
	if len(base) < uuidLen {
		return uuid.UUID{}, 0, false, false
	}
	volume, err := uuid.Parse(base[:uuidLen])
	if err != nil {
		return uuid.UUID{}, 0, false, false
	}
	if _, err := fmt.Sscanf(base[uuidLen:], "-%016x", &gen); err != nil || base != path.Base(Name(volume, gen)) {
		return uuid.UUID{}, 0, false, false
	}
	return volume, gen, draft, true
}
