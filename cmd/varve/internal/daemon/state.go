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
	Store    string                `json:"store"` // UUID
	Boot     string                `json:"boot"`  // device numbers and mounts mean nothing in another boot
	Attached []protocol.Attachment `json:"attached"`
	Mounts   []protocol.Mount      `json:"mounts"`
	// Starting are volumes whose devices were being made: what there is of them was never used.
	Starting []string `json:"starting,omitempty"`
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
	return s, nil
}

// check refuses what no daemon has written: names and directories end up in paths.
func (s *state) check() error {
	for _, a := range s.Attached {
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

// volumes are the names that devices of the state have in their owners' marks.
func (s *state) volumes() []string {
	names := slices.Clone(s.Starting)
	for _, a := range s.Attached {
		names = append(names, a.Volume)
	}
	return names
}

// write replaces the state, whole or not at all. It is not synced: it need not outlive this boot.
func (s state) write(store string) error {
	files := vfs.OS(store)
	defer func() { _ = files.Close() }() // a handle only
	if len(s.Attached) == 0 && len(s.Mounts) == 0 && len(s.Starting) == 0 {
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
