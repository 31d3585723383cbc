package devices

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"varve/cmd/varve/internal/ballast"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore/vfs"
)

// listName is the file of the store that tells the next daemon what this one served.
const listName = "attached.json"

const (
	listVersion = 1
	maxList     = 4 << 20 // bytes
)

// List is the list of devices and mounts on disk. It says what to look for after a crash, and nothing more: what is there is
// asked of the kernel. A lost list loses no data.
type List struct {
	Version  int                   `json:"version"`
	Store    string                `json:"store"`              // UUID of its files
	Instance string                `json:"instance,omitempty"` // whose devices they are; older versions don't say
	Boot     string                `json:"boot"`               // device numbers and mounts mean nothing in another boot
	Attached []protocol.Attachment `json:"attached"`
	Mounts   []protocol.Mount      `json:"mounts"`
	// Restore are devices that were detached because the daemon was stopped: the next one attaches them again.
	Restore []protocol.Attachment `json:"restore,omitempty"`
	// Starting are volumes whose devices were being made: what there is of them was never used.
	Starting []string `json:"starting,omitempty"`
	// Foreign are devices of the store that this one is a copy of, or that was here before it was moved, until somebody says
	// which it is.
	Foreign []protocol.Attachment `json:"foreign,omitempty"`

	written time.Time // as the file system has it; zero: not read from a file
	old     bool      // Starting is of an older version
}

// ReadList reads the list of the store in dir. It is empty if there is none.
func ReadList(dir string) (List, error) {
	path := filepath.Join(dir, listName)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return List{}, nil
	}
	if err != nil {
		return List{}, err
	}
	if fi.Size() > maxList {
		return List{}, fmt.Errorf("%s has %d bytes: not a list of devices", path, fi.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return List{}, err
	}
	if len(bytes.Trim(data, "\x00")) == 0 {
		return List{}, nil // a power cut before the file system had written it: of another boot, and worth nothing
	}
	var l List
	if err := json.Unmarshal(data, &l); err != nil {
		return List{}, fmt.Errorf("read %s: %w", path, err)
	}
	if l.Version != listVersion {
		return List{}, fmt.Errorf("read %s: version %d, this varve knows %d", path, l.Version, listVersion)
	}
	if err := l.check(); err != nil {
		return List{}, fmt.Errorf("read %s: %w", path, err)
	}
	l.written = fi.ModTime()
	return l, nil
}

// check refuses what no daemon has written: names and directories end up in paths.
func (l *List) check() error {
	for _, a := range slices.Concat(l.Attached, l.Foreign, l.Restore) {
		if err := protocol.CheckName(a.Volume); err != nil {
			return fmt.Errorf("device %q of volume %q: %w", a.Device, a.Volume, err)
		}
	}
	for _, v := range l.Starting {
		if err := protocol.CheckName(v); err != nil {
			return fmt.Errorf("volume %q: %w", v, err)
		}
	}
	for _, m := range l.Mounts {
		if err := m.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Bind leaves in the list what is the instance's, and of this boot. What was copied with a store is foreign.
func (l *List) Bind(in instance.Instance, boot string) {
	if l.Boot != boot {
		*l = List{}
		return
	}
	if l.Instance == "" && in.ID != "" {
		l.markOld(in)
		l.old = l.writtenHere(in)
	}
	if l.Instance == in.ID || l.old {
		return
	}
	for _, a := range l.Attached {
		if a.Transport == "ublk" {
			l.Foreign = append(l.Foreign, a)
		}
	}
	l.Attached, l.Mounts, l.Starting, l.Restore = nil, nil, nil, nil
}

// markOld notes the marks that a version has given which does not note them.
func (l *List) markOld(in instance.Instance) {
	for i := range l.Attached {
		l.Attached[i].Mark = in.OldMark(l.Attached[i].Volume)
	}
}

// writtenHere tells a list that an older version has written from a copy of it. A store was there before its devices,
// and before its list was written; a copy that has them in its list was made later.
func (l *List) writtenHere(in instance.Instance) bool {
	if in.Born.IsZero() || l.written.IsZero() || l.written.Before(in.Born) {
		return false
	}
	return !slices.ContainsFunc(l.Attached, func(a protocol.Attachment) bool {
		return a.Since.Add(time.Second).Before(in.Born) // Since is in whole seconds
	})
}

// Old reports whether an older version has written the list, which does not note the instance.
func (l *List) Old() bool { return l.old }

// Adopt makes a list that an older version has written the instance's: that it was not copied is known from who wrote it.
func (l *List) Adopt(in instance.Instance) {
	if l.Instance == "" {
		l.markOld(in)
		l.Instance, l.old = in.ID, true
	}
}

// Claims returns what the list says of devices, beside the volumes that the store has.
func (l *List) Claims() instance.Claims {
	c := instance.Claims{Names: slices.Clone(l.Starting), Noted: slices.Clone(l.Attached)}
	for _, a := range l.Attached {
		c.Names = append(c.Names, a.Volume)
	}
	if l.old {
		for _, v := range l.Starting {
			c.Noted = append(c.Noted, protocol.Attachment{Volume: v, ID: instance.AnyNumber, Mark: instance.Instance{UUID: l.Store}.OldMark(v)})
		}
	}
	return c
}

// Rename replaces the names of volumes in the list by those that rename returns for its devices: a
// volume may have been renamed since the list was written, or while no daemon was there to do so.
func (l *List) Rename(rename func(protocol.Attachment) protocol.Attachment) {
	for _, list := range [][]protocol.Attachment{l.Attached, l.Restore} {
		for i := range list {
			list[i] = rename(list[i])
		}
	}
}

// Write replaces the list of the store in dir, whole or not at all. It is not synced: it need not outlive this boot.
func (l List) Write(dir string) error {
	return ballast.With(dir, func() error { return l.write(dir) })
}

func (l List) write(dir string) error {
	files := vfs.OS(dir)
	defer func() { _ = files.Close() }() // a handle only
	if len(l.Attached)+len(l.Mounts)+len(l.Starting)+len(l.Foreign)+len(l.Restore) == 0 {
		if err := files.Remove(listName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	l.Version = listVersion
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", listName, err)
	}
	if err := files.WriteFile(listName+".new", append(data, '\n')); err != nil {
		return err
	}
	return files.Rename(listName+".new", listName)
}
