package refs

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
)

// MaxName is the length of the longest name of a volume or snapshot, in bytes.
const MaxName = 128

// CheckName returns an ErrInvalid if a name of a volume or snapshot is not valid: names have 1 to
// MaxName letters, digits, '.', '_', '-', ':' and '+', and begin with a letter or digit. what
// ("volume") is for the message.
func CheckName(what, name string) error {
	bad := func(why string) error {
		return fmt.Errorf("%s name %q %s: %w: use 1 to %d letters, digits, '.', '_', '-', ':' and '+', a letter or digit first",
			what, name, why, disk.ErrInvalid, MaxName)
	}
	if name == "" {
		return bad("is empty")
	}
	if len(name) > MaxName {
		return bad(fmt.Sprintf("has %d characters", len(name)))
	}
	for i, c := range name {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-:+", c)) {
			return bad(fmt.Sprintf("has %q at position %d", c, i+1))
		}
	}
	return nil
}

// ScratchName returns the name of the scratch volume with an ID. No other volume can have that
// name, as the ID of a volume is chosen at random when it is created.
func ScratchName(id uuid.UUID) string { return "scratch-" + id.String() }
