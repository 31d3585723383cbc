package objstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/refs"
)

// MaxName is the length of the longest name of a volume or snapshot, in bytes.
const MaxName = refs.MaxName

// CheckName returns what is wrong with the name of a volume or snapshot, as ErrInvalid: it has 1 to
// MaxName letters, digits, '.', '_', '-', ':' and '+', the first a letter or digit. what ("volume")
// is for the message.
func CheckName(what, name string) error { return refs.CheckName(what, name) }

// CreateVolume makes a volume of zeroes. ErrExists if the name is taken.
func (s *Store) CreateVolume(ctx context.Context, name string, o VolumeOptions) (VolumeInfo, error) {
	if o.BlockSize == 0 {
		o.BlockSize = SectorSize
	}
	if err := CheckName("volume", name); err != nil {
		return VolumeInfo{}, err
	}
	if err := refs.CheckBlockSize(o.BlockSize); err != nil {
		return VolumeInfo{}, err
	}
	if err := refs.CheckSize(o.Size, o.BlockSize); err != nil {
		return VolumeInfo{}, fmt.Errorf("volume %s: %w", name, err)
	}
	rec := refs.Record{Op: refs.OpVolume, ID: uuid.New(), Name: name, Size: o.Size, BlockSize: o.BlockSize, Verify: o.Verify, Time: s.opts.Now().UTC()}
	v, err := s.catalog.create(ctx, rec.ID, func() ([]refs.Record, error) {
		if s.catalog.refs.Volumes[name] != nil {
			return nil, fmt.Errorf("volume %s: %w", name, ErrExists)
		}
		rec.Mark = s.catalog.refs.MarkFor(name, rec.ID)
		return []refs.Record{rec}, nil
	}, func(ref *refs.Volume) *volume {
		return newVolume(s, ref, newBase(s.leaves, s.sb.emptyRoot(o.Size)))
	})
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.catalog.info(v), nil
}

// create adds a volume. decide, with mu held, returns the records that make it, all in one frame;
// engine, with mu held when they have taken effect, makes the engine's object of it.
func (c *catalog) create(ctx context.Context, id uuid.UUID, decide func() ([]refs.Record, error), engine func(*refs.Volume) *volume) (*volume, error) {
	var v *volume
	err := c.update(ctx, decide, func() {
		failpoint.Here(failpoint.VolumeCreated)
		v = engine(c.refs.ByID[id])
		c.volumes[id] = v
	})
	return v, err
}

// OpenVolume opens a volume for reading and writing. user names the user ("ublk /dev/ublkb0",
// "fuse"), for the lists. Close it when done.
func (s *Store) OpenVolume(name, user string) (*Volume, error) {
	v, err := s.catalog.find(name)
	if err != nil {
		return nil, err
	}
	if v.damageError() != nil {
		v.settleMu.Lock()
		_, err = s.lookAgain(s.ctx, v)
		v.settleMu.Unlock()
	}
	if err == nil {
		err = s.catalog.enter(v, user)
	}
	if err != nil {
		return nil, err
	}
	// A full disk has no room for a journal, but what is in the volume can be read.
	if err := v.activate(); err != nil && !errors.Is(err, ErrNoSpace) {
		s.catalog.leave(v, user)
		return nil, err
	}
	return &Volume{volume: v, user: user}, nil
}

// enter notes a user of a volume. It is refused while the volume is damaged, being deleted, or
// gone, and while the log may hold a record that deletes or repairs it although that was answered
// with an error.
func (c *catalog) enter(v *volume, user string) error {
	for {
		if err := c.takeBack(); err != nil {
			return err
		}
		if entered, err := c.tryEnter(v, user); entered || err != nil {
			return err
		}
	}
}

// tryEnter is enter for a log that is not in doubt. false: it is.
func (c *catalog) tryEnter(v *volume, user string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := v.damageError(); err != nil {
		return false, err
	}
	if c.volumes[v.ref.ID] != v {
		return false, fmt.Errorf("volume %s: %w", v.Name(), ErrNotFound)
	}
	if v.reserved != "" {
		return false, fmt.Errorf("volume %s: %w: it is being %s", v.Name(), ErrInUse, v.reserved)
	}
	if c.inDoubt() {
		return false, nil
	}
	v.users = append(v.users, user)
	return true, nil
}

// leave takes back what enter has noted.
func (c *catalog) leave(v *volume, user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(v.users, user); i >= 0 {
		v.users = slices.Delete(v.users, i, i+1)
	}
}

// Volumes lists the volumes in order of name, without scratch volumes.
func (s *Store) Volumes() []VolumeInfo { return s.catalog.infos(false) }

// VolumeInfo describes one volume.
func (s *Store) VolumeInfo(name string) (VolumeInfo, error) {
	v, err := s.catalog.find(name)
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.catalog.info(v), nil
}

// infos describes the scratch volumes, or all others, in order of name.
func (c *catalog) infos(scratch bool) []VolumeInfo {
	all := slices.DeleteFunc(c.sorted(), func(v *volume) bool { return v.ref.Scratch() != scratch })
	out := make([]VolumeInfo, len(all))
	for i, v := range all {
		out[i] = c.info(v)
	}
	return out
}

// info describes a volume.
func (c *catalog) info(v *volume) VolumeInfo {
	v.mu.Lock()
	tail := v.tail
	v.mu.Unlock()
	damage := ""
	if d := v.damage.Load(); d != nil {
		damage = d.err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var policy *Retention
	if p := Retention(v.ref.Policy); p != (Retention{}) {
		policy = &p
	}
	return VolumeInfo{
		Name: v.Name(), ID: v.ref.ID.String(), Size: v.ref.Size, BlockSize: v.ref.BlockSize, Verify: v.ref.Verify, Created: v.ref.Created,
		Root: c.refs.RootOf(v.ref).String(), Logical: v.ref.Logical, Tail: tail, Snapshots: len(v.ref.Snapshots),
		Users: append([]string{}, v.users...), Damage: damage, Of: v.ref.Of, MarkName: v.ref.MarkName(), Quota: v.ref.Quota, Reserve: v.ref.Reserve, Policy: policy,
	}
}

// find returns the volume of a name.
func (c *catalog) find(name string) (*volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.volume(name)
}

// volume returns the volume of a name.
// REQUIRES: mu is held.
func (c *catalog) volume(name string) (*volume, error) {
	if ref := c.refs.Volumes[name]; ref != nil {
		return c.volumes[ref.ID], nil
	}
	return nil, fmt.Errorf("volume %s: %w", name, ErrNotFound)
}

// all returns the volumes that there are now, scratch volumes too, for work that does not hold mu.
func (c *catalog) all() []*volume {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.volumes))
}

// sorted is all in order of name.
func (c *catalog) sorted() []*volume {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.refs.Sorted()
	out := make([]*volume, len(list))
	for i, ref := range list {
		out[i] = c.volumes[ref.ID]
	}
	return out
}

// gone reports whether a volume was deleted.
func (c *catalog) gone(v *volume) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refs.ByID[v.ref.ID] == nil
}

// unused reports whether the volume is not open.
func (c *catalog) unused(v *volume) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(v.users) == 0
}

// ifUnused runs f with mu held if the volume is not open.
func (c *catalog) ifUnused(v *volume, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(v.users) == 0 {
		f()
	}
}

// anyRefused reports whether a volume is refused for its damage.
// REQUIRES: mu is held.
func (c *catalog) anyRefused() bool {
	for _, v := range c.volumes {
		if v.damage.Load() != nil {
			return true
		}
	}
	return false
}
