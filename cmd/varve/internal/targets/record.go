package targets

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"varve/cmd/varve/internal/protocol"
)

// Record is a note of what a device is made of, for a successor and for lists.
type Record struct {
	protocol.TargetDevice
	Store    string `json:"store,omitempty"`    // the directory of the store whose daemon serves it; empty: a process of its own
	Instance string `json:"instance,omitempty"` // of that store
	// Legs are how those of a mirror were when that last changed.
	Legs []protocol.Leg `json:"legs,omitempty"`
}

// Runtime is where records are. Losing them loses no data. They do not outlive the boot, as the
// devices do not. Tests change it.
var Runtime = "/run/varve/ublk"

const maxRecord = 1 << 20 // bytes

func recordPath(id int) string { return filepath.Join(Runtime, fmt.Sprintf("%d.json", id)) }

// Note replaces the record of a device.
func Note(r Record) error {
	r.Format, r.Degraded, r.ResyncFrom = false, false, "" // a successor finds the set that was made
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode target of device %d: %w", r.ID, err)
	}
	path := recordPath(r.ID)
	return inRuntime(func() error {
		if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	})
}

// inRuntime calls f, which makes a file in Runtime, with the directory there. Other processes may
// remove it meanwhile, when it is empty: f is called again then.
func inRuntime(f func() error) error {
	for try := 1; ; try++ {
		err := os.MkdirAll(Runtime, 0o700)
		gone := errors.Is(err, fs.ErrExist) // it was there, and was removed before it was looked at
		if err == nil {
			err = f()
		}
		if !gone && !errors.Is(err, fs.ErrNotExist) || try == 100 {
			return err
		}
	}
}

// Noted returns the record of a device, or false if there is none.
func Noted(id int) (Record, bool, error) {
	var d Record
	fi, err := os.Stat(recordPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return d, false, nil
	}
	if err != nil {
		return d, false, err
	}
	if fi.Size() > maxRecord {
		return d, false, fmt.Errorf("%s has %d bytes: no note of a device", recordPath(id), fi.Size())
	}
	data, err := os.ReadFile(recordPath(id))
	if err != nil {
		return d, false, err
	}
	if err = json.Unmarshal(data, &d); err == nil {
		err = d.Check()
	}
	if err == nil && d.ID != id {
		err = fmt.Errorf("it is of device %d", d.ID)
	}
	if err != nil {
		return d, false, fmt.Errorf("read %s: %w", recordPath(id), err)
	}
	return d, true, nil
}

// Kept returns the records of the devices that the daemon of a store's instance serves, or did, in
// order of their numbers. If some can't be read, it returns the others with an error.
func Kept(instance string) ([]Record, error) {
	names, err := filepath.Glob(filepath.Join(Runtime, "*.json"))
	if err != nil || instance == "" {
		return nil, err
	}
	var list []Record
	var errs []error
	for _, name := range names {
		id, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(name), ".json"))
		if err != nil {
			continue // no record
		}
		r, known, err := Noted(id)
		if err != nil {
			errs = append(errs, err)
		} else if known && r.Instance == instance {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b Record) int { return cmp.Compare(a.ID, b.ID) })
	return list, errors.Join(errs...)
}

// Forget removes the record of a device that is gone, and the directory with the last one.
func Forget(id int) error {
	_ = os.Remove(legsPath(id)) // of a mirror
	if err := os.Remove(recordPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Remove(Runtime) == nil {
		_ = os.Remove(filepath.Dir(Runtime)) // mounts may be in it
	}
	return nil
}
