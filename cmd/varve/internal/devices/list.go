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

// List is the list of devices and mounts on disk. It only says what to look for after a crash: the
// kernel tells what exists. Losing the list loses no data.
type List struct {
	Version  int                   `json:"version"`
	Store    string                `json:"store"`              // UUID of its files
	Instance string                `json:"instance,omitempty"` // that has the devices; missing in lists of older versions
	Boot     string                `json:"boot"`               // device numbers and mounts mean nothing in another boot
	Attached []protocol.Attachment `json:"attached"`
	Mounts   []protocol.Mount      `json:"mounts"`
	// Restore are devices that were detached because the daemon stopped: the next one attaches them
	// again.
	Restore []protocol.Attachment `json:"restore,omitempty"`
	// Starting are volumes whose devices were being made, and were never used.
	Starting []string `json:"starting,omitempty"`
	// Foreign are devices of the store that this one is a copy of, or of this store before it was
	// moved, until the user says which it is.
	Foreign []protocol.Attachment `json:"foreign,omitempty"`

	written time.Time // modification time of the file; zero: not read from a file
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
		return List{}, nil // cut off by a power cut: of another boot, and useless
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

// check refuses a list that no daemon has written: its names and directories end up in paths.
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

// Bind reduces the list to what belongs to the instance and this boot. Devices of another instance
// become foreign.
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

// markOld adds the marks that older versions used, which their lists do not have.
func (l *List) markOld(in instance.Instance) {
	for i := range l.Attached {
		l.Attached[i].Mark = in.OldMark(l.Attached[i].Volume)
	}
}

// writtenHere tells a list that an older version has written from a copy of it. A store is older
// than its devices and its list; a copy is younger.
func (l *List) writtenHere(in instance.Instance) bool {
	if in.Born.IsZero() || l.written.IsZero() || l.written.Before(in.Born) {
		return false
	}
	return !slices.ContainsFunc(l.Attached, func(a protocol.Attachment) bool {
		return a.Since.Add(time.Second).Before(in.Born) // Since is in whole seconds
	})
}

// Old reports whether the list was written by an older version, and does not name the instance.
func (l *List) Old() bool { return l.old }

// Adopt binds a list of an older version to the instance: the running predecessor wrote it, so it
// is no copy.
func (l *List) Adopt(in instance.Instance) {
	if l.Instance == "" {
		l.markOld(in)
		l.Instance, l.old = in.ID, true
	}
}

// Claims returns the claims to devices that follow from the list, in addition to those from the
// store's volumes.
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
// volume may have been renamed since the list was written, or without a daemon.
func (l *List) Rename(rename func(protocol.Attachment) protocol.Attachment) {
	for _, list := range [][]protocol.Attachment{l.Attached, l.Restore} {
		for i := range list {
			list[i] = rename(list[i])
		}
	}
}

// Write replaces the list of the store in dir, atomically. The file is not synced, as it need not
// outlive this boot.
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
