package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore/vfs"
)

// stateName is the file, relative to the store, that tells the next daemon what this one served.
const stateName = "attached.json"

const (
	stateVersion = 1
	maxState     = 4 << 20 // bytes
)

// state is written at every change of it. It says what to look for after a crash, and nothing more: what is
// there is asked of the kernel. A lost state loses no data.
type state struct {
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

// readState gives an empty state if there is none.
func readState(store string) (state, error) {
	path := filepath.Join(store, stateName)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	if fi.Size() > maxState {
		return state{}, fmt.Errorf("%s has %d bytes: not a list of devices", path, fi.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return state{}, err
	}
	if len(bytes.Trim(data, "\x00")) == 0 {
		return state{}, nil // a power cut before the file system had written it: of another boot, and worth nothing
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return state{}, fmt.Errorf("read %s: %w", path, err)
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("read %s: version %d, this varve knows %d", path, s.Version, stateVersion)
	}
	if err := s.check(); err != nil {
		return state{}, fmt.Errorf("read %s: %w", path, err)
	}
	s.written = fi.ModTime()
	return s, nil
}

// check refuses what no daemon has written: names and directories end up in paths.
func (s *state) check() error {
	for _, a := range slices.Concat(s.Attached, s.Foreign, s.Restore) {
		if err := protocol.CheckName(a.Volume); err != nil {
			return fmt.Errorf("device %q of volume %q: %w", a.Device, a.Volume, err)
		}
	}
	for _, v := range s.Starting {
		if err := protocol.CheckName(v); err != nil {
			return fmt.Errorf("volume %q: %w", v, err)
		}
	}
	for _, m := range s.Mounts {
		if err := m.Check(); err != nil {
			return err
		}
	}
	return nil
}

// bind leaves in the state what is the instance's, and in this boot. What was copied with a store is foreign.
func (s *state) bind(in instance.Instance, boot string) {
	if s.Boot != boot {
		*s = state{}
		return
	}
	if s.Instance == "" && in.ID != "" {
		s.markOld(in)
		s.old = s.writtenHere(in)
	}
	if s.Instance == in.ID || s.old {
		return
	}
	for _, a := range s.Attached {
		if a.Transport == "ublk" {
			s.Foreign = append(s.Foreign, a)
		}
	}
	s.Attached, s.Mounts, s.Starting, s.Restore = nil, nil, nil, nil
}

// markOld notes the marks that a version has given which does not note them.
func (s *state) markOld(in instance.Instance) {
	for i := range s.Attached {
		s.Attached[i].Mark = in.OldMark(s.Attached[i].Volume)
	}
}

// writtenHere tells a list that an older version has written from a copy of it. A store was there before its devices,
// and before its list was written; a copy that has them in its list was made later.
func (s *state) writtenHere(in instance.Instance) bool {
	if in.Born.IsZero() || s.written.IsZero() || s.written.Before(in.Born) {
		return false
	}
	return !slices.ContainsFunc(s.Attached, func(a protocol.Attachment) bool {
		return a.Since.Add(time.Second).Before(in.Born) // Since is in whole seconds
	})
}

// claims are what the state says of devices, beside the volumes that the store has.
func (s *state) claims() instance.Claims {
	c := instance.Claims{Volumes: slices.Clone(s.Starting), Noted: slices.Clone(s.Attached)}
	for _, a := range s.Attached {
		c.Volumes = append(c.Volumes, a.Volume)
	}
	if s.old {
		for _, v := range s.Starting {
			c.Noted = append(c.Noted, protocol.Attachment{Volume: v, ID: instance.AnyNumber, Mark: instance.Instance{UUID: s.Store}.OldMark(v)})
		}
	}
	return c
}

// write replaces the state, whole or not at all. It is not synced: it need not outlive this boot.
func (s state) write(store string) error {
	files := vfs.OS(store)
	defer func() { _ = files.Close() }() // a handle only
	if len(s.Attached)+len(s.Mounts)+len(s.Starting)+len(s.Foreign)+len(s.Restore) == 0 {
		if err := files.Remove(stateName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	s.Version = stateVersion
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", stateName, err)
	}
	if err := files.WriteFile(stateName+".new", append(data, '\n')); err != nil {
		return err
	}
	return files.Rename(stateName+".new", stateName)
}

// bootID tells one boot from another; empty if the kernel doesn't say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
