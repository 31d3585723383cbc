package protocol

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"varve/objstore"
)

// Transports that Attach accepts.
var Transports = []string{"auto", "ublk", "loop"}

// CopyModes that Attach accepts.
var CopyModes = []string{"auto", "zero", "user", "plain"}

// Limits of Attach.
const (
	MaxQueues = 64
	MaxDepth  = 4096 // UBLK_MAX_QUEUE_DEPTH
)

// MaxName is the length of the longest name in bytes.
const MaxName = objstore.MaxName

// CheckName returns an error if name is not a valid name of a volume or snapshot. The error says
// what is wrong and what is allowed; the caller adds the name.
func CheckName(name string) error {
	const allowed = "use letters, digits, '.', '_', '-', ':' and '+'"
	if name == "" {
		return fmt.Errorf("the name is empty; %s", allowed)
	}
	for i, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune("._-:+", r) && i > 0:
		case strings.ContainsRune("._-:+", r):
			return fmt.Errorf("name begins with %q; begin it with a letter or a digit", string(r))
		case r == ' ':
			return fmt.Errorf("name has a space; %s", allowed)
		default:
			return fmt.Errorf("name has %q; %s", string(r), allowed)
		}
	}
	if len(name) > MaxName {
		return fmt.Errorf("name has %d characters; the maximum is %d", len(name), MaxName)
	}
	return nil
}

// SplitSnapshot splits VOLUME@SNAPSHOT and checks both names.
func SplitSnapshot(s string) (volume, snap string, err error) {
	volume, snap, ok := strings.Cut(s, "@")
	if !ok {
		return "", "", fmt.Errorf("no '@'; write VOLUME@SNAPSHOT")
	}
	if err := CheckName(volume); err != nil {
		return "", "", fmt.Errorf("volume %q: %w", volume, err)
	}
	if err := checkSnapshotOrState(snap); err != nil {
		return "", "", fmt.Errorf("snapshot %q: %w", snap, err)
	}
	return volume, snap, nil
}

// Check returns an error if no store could keep to the maximum.
func (m MaxSize) Check() error {
	if m.Bytes != 0 && m.Bytes < objstore.SmallestMaxSize {
		return fmt.Errorf("maximum size %d bytes; use at least %dMiB, or none", m.Bytes, objstore.SmallestMaxSize>>20)
	}
	return nil
}

// CopiedFroms that Identity accepts.
var CopiedFroms = []string{string(objstore.CopiedStopped), string(objstore.CopiedSnapshot)}

// Check returns an error if the request says nothing or contradicts itself.
func (i Identity) Check() error {
	switch {
	case i == Identity{}:
		return errors.New("the request says nothing about the store")
	case i.Moved && i.NewUUID:
		return errors.New("a store is either moved or a copy, not both")
	case i.Moved && i.CopiedFrom != "":
		return errors.New("a moved store was copied while no daemon served it")
	case i.CopiedFrom != "" && !slices.Contains(CopiedFroms, i.CopiedFrom):
		return fmt.Errorf("copied from %q; use one of %s", i.CopiedFrom, strings.Join(CopiedFroms, ", "))
	}
	return nil
}

// Check returns an error if no store could hold the volume.
func (c CreateVolume) Check() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	block := int64(c.BlockSize)
	switch block {
	case 0:
		block = objstore.SectorSize
	case 512, 4096:
	default:
		return fmt.Errorf("block size %d; use 512 or 4096", c.BlockSize)
	}
	switch {
	case c.Size <= 0:
		return fmt.Errorf("size %d; use a size like 10G", c.Size)
	case c.Size > objstore.MaxVolumeSize:
		return fmt.Errorf("size %d bytes is more than the largest volume, %dTiB", c.Size, objstore.MaxVolumeSize>>40)
	case c.Size%block != 0:
		return fmt.Errorf("size %d bytes is not a multiple of the block size %d; the next multiple is %d",
			c.Size, block, (c.Size/block+1)*block)
	}
	return nil
}

// Check returns an error if a limit is negative.
func (s SetVolume) Check() error {
	if s.Quota != nil && *s.Quota < 0 {
		return fmt.Errorf("quota %d; use a size like 100G, or none", *s.Quota)
	}
	if s.Reserve != nil && *s.Reserve < 0 {
		return fmt.Errorf("reservation %d; use a size like 100G, or none", *s.Reserve)
	}
	return s.Retention(objstore.Retention{}).Check()
}

// Check returns an error if a name is invalid, or there is none.
func (w WouldFree) Check() error {
	if len(w.Volumes)+len(w.Snapshots) == 0 {
		return errors.New("no volume or snapshot is named")
	}
	for _, v := range w.Volumes {
		if err := CheckName(v); err != nil {
			return fmt.Errorf("volume %q: %w", v, err)
		}
	}
	for _, s := range w.Snapshots {
		if _, _, err := SplitSnapshot(s); err != nil {
			return fmt.Errorf("snapshot %q: %w", s, err)
		}
	}
	return nil
}

// Waits reports whether the response waits for settling.
func (w WouldFree) Waits() bool { return true }

// Check returns an error if a name is invalid.
func (c CloneVolume) Check() error {
	if c.Snapshot != "" {
		if err := checkSnapshotOrState(c.Snapshot); err != nil {
			return fmt.Errorf("snapshot %q: %w", c.Snapshot, err)
		}
	}
	if err := CheckName(c.Name); err != nil {
		return fmt.Errorf("clone %q: %w", c.Name, err)
	}
	return nil
}

// Waits reports whether the response waits for settling.
func (c CloneVolume) Waits() bool { return true }

// Check returns an error if the name is invalid.
func (r RollbackVolume) Check() error {
	if err := checkSnapshotOrState(r.Snapshot); err != nil {
		return fmt.Errorf("snapshot %q: %w", r.Snapshot, err)
	}
	return nil
}

// Waits reports whether the response waits for settling.
func (r RollbackVolume) Waits() bool { return true }

// Check returns an error if the new name is invalid.
func (r Rename) Check() error {
	if err := CheckName(r.To); err != nil {
		return fmt.Errorf("new name %q: %w", r.To, err)
	}
	return nil
}

// Check returns an error if no volume can have the size.
func (r ResizeVolume) Check() error {
	if r.Size <= 0 || r.Size > objstore.MaxVolumeSize || r.Size%objstore.SectorSize != 0 {
		return fmt.Errorf("size %d bytes: %w: use a multiple of %d, at most %d", r.Size, objstore.ErrInvalid, objstore.SectorSize, int64(objstore.MaxVolumeSize))
	}
	return nil
}

// Waits reports whether the response waits for settling.
func (r ResizeVolume) Waits() bool { return true }

// Waits reports whether the response waits for settling.
func (c CreateSnapshot) Waits() bool { return c.Wait }

// Check returns an error if a name is invalid.
func (c CreateSnapshot) Check() error {
	if err := CheckName(c.Volume); err != nil {
		return fmt.Errorf("volume %q: %w", c.Volume, err)
	}
	if err := CheckName(c.Name); err != nil {
		return fmt.Errorf("snapshot %q: %w", c.Name, err)
	}
	return nil
}

// Check returns an error if no device could have these options.
func (a Attach) Check() error {
	if err := CheckName(a.Volume); err != nil {
		return err
	}
	if a.Snapshot != "" {
		if err := checkSnapshotOrState(a.Snapshot); err != nil {
			return fmt.Errorf("snapshot %q: %w", a.Snapshot, err)
		}
	} else if a.Writable {
		return errors.New("--writable is for a snapshot, VOLUME@SNAPSHOT; a volume is writable without it")
	}
	if a.Writable && a.ReadOnly {
		return errors.New("both --read-only and --writable; use only one of them")
	}
	if a.Transport != "" && !slices.Contains(Transports, a.Transport) {
		return fmt.Errorf("transport %q; use one of %s", a.Transport, strings.Join(Transports, ", "))
	}
	return CheckDevice(a.CopyMode, a.Queues, a.Depth)
}

// CheckDevice returns an error if no ublk device could have these options. Zero values are
// defaults.
func CheckDevice(copyMode string, queues, depth int) error {
	if copyMode != "" && !slices.Contains(CopyModes, copyMode) {
		return fmt.Errorf("copy mode %q; use one of %s", copyMode, strings.Join(CopyModes, ", "))
	}
	if queues < 0 || queues > MaxQueues {
		return fmt.Errorf("%d queues; use 1 to %d, or 0 for the default", queues, MaxQueues)
	}
	if depth < 0 || depth > MaxDepth {
		return fmt.Errorf("depth %d; use 1 to %d, or 0 for the default", depth, MaxDepth)
	}
	return nil
}

// Check returns an error if the directory cannot be a mount point.
func (m Mount) Check() error { return checkDir(m.Dir) }

// Check returns an error if the device or the directory is not a valid path.
func (a AutoDetach) Check() error {
	if err := checkPath(a.Device); err != nil {
		return err
	}
	return checkDir(a.Dir)
}

// Check returns an error if the directory cannot be a mount point.
func (u Unmount) Check() error { return checkDir(u.Dir) }

// Check returns an error if the target can be neither a volume nor a device.
func (d Detach) Check() error {
	if d.Target == "" {
		return errors.New("the volume or device is empty; name one")
	}
	return checkPath(d.Target)
}

// maxPath is PATH_MAX without its NUL.
const maxPath = 4095

func checkPath(path string) error {
	if strings.ContainsRune(path, 0) {
		return fmt.Errorf("path %.100q has a NUL byte", path)
	}
	if len(path) > maxPath {
		return fmt.Errorf("path has %d bytes; the maximum is %d", len(path), maxPath)
	}
	return nil
}

func checkDir(dir string) error {
	if err := checkPath(dir); err != nil {
		return err
	}
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
		return fmt.Errorf("mount point %q is not a clean absolute path", dir)
	}
	return nil
}
