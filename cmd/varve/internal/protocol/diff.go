package protocol

import (
	"errors"
	"fmt"

	"varve/objstore"
)

// Diff asks for the ranges in which To differs from From.
type Diff struct {
	From objstore.ImageName `json:"from"`
	To   objstore.ImageName `json:"to"`
}

// Check returns an error if an image has an invalid name.
func (d Diff) Check() error {
	return errors.Join(CheckImage(d.From), CheckImage(d.To))
}

// CheckImage returns an error if a name is invalid.
func CheckImage(n objstore.ImageName) error {
	if err := CheckName(n.Volume); err != nil {
		return fmt.Errorf("volume %q: %w", n.Volume, err)
	}
	if n.Snapshot == "" {
		return nil
	}
	if err := checkSnapshotOrState(n.Snapshot); err != nil {
		return fmt.Errorf("snapshot %q: %w", n.Snapshot, err)
	}
	return nil
}

// ParseImage reads VOLUME or VOLUME@SNAPSHOT, and checks both names.
func ParseImage(s string) (objstore.ImageName, error) {
	n := objstore.ParseImageName(s)
	if n.Snapshot == "" && n.Volume != s {
		return n, fmt.Errorf("nothing behind the '@'; write VOLUME or VOLUME@SNAPSHOT")
	}
	return n, CheckImage(n)
}

// DiffEvent is a line of the response to a Diff: first what is compared, then the changes in order,
// and in the end their sum, or an error.
type DiffEvent struct {
	Images *objstore.DiffImages `json:"images,omitempty"`
	Change *objstore.Change     `json:"change,omitempty"`
	Total  *objstore.DiffTotal  `json:"total,omitempty"`
	Error  *Error               `json:"error,omitempty"`
}
