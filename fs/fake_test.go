package fs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"varve/objstore"
)

// fakeSource is a Source in memory.
type fakeSource struct {
	mu      sync.Mutex
	serial  int
	volumes map[string]*fakeVolume
	snaps   map[string]map[string]*fakeSnapshot
}

type fakeSnapshot struct {
	info objstore.SnapshotInfo
	disk *fakeDisk
}

func newFakeSource() *fakeSource {
	return &fakeSource{volumes: make(map[string]*fakeVolume), snaps: make(map[string]map[string]*fakeSnapshot)}
}

func (s *fakeSource) create(name string, size int64) *fakeVolume {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	v := &fakeVolume{
		fakeDisk: newFakeDisk(size), name: name, id: fmt.Sprintf("volume-%d", s.serial), created: time.Now(),
	}
	s.volumes[name] = v
	return v
}

func (s *fakeSource) remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[name]; v != nil && v.opens() > 0 {
		return objstore.ErrInUse
	}
	delete(s.volumes, name)
	return nil
}

// snapshot freezes a volume; an unsettled one has no root yet.
func (s *fakeSource) snapshot(volume, name string, settled bool) objstore.SnapshotInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	disk := s.volumes[volume].copy()
	info := objstore.SnapshotInfo{Volume: volume, Name: name, Created: time.Now(), Size: disk.size}
	if settled {
		info.Root, info.Logical = disk.root(), disk.data()
	}
	if s.snaps[volume] == nil {
		s.snaps[volume] = make(map[string]*fakeSnapshot)
	}
	s.snaps[volume][name] = &fakeSnapshot{info, disk}
	return info
}

func (s *fakeSource) removeSnapshot(volume, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.snaps[volume], name)
}

func (s *fakeSource) Volumes() []objstore.VolumeInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []objstore.VolumeInfo
	for _, name := range slices.Sorted(maps.Keys(s.volumes)) {
		out = append(out, s.volumes[name].info())
	}
	return out
}

func (s *fakeSource) VolumeInfo(name string) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[name]; v != nil {
		return v.info(), nil
	}
	return objstore.VolumeInfo{}, fmt.Errorf("volume %s: %w", name, objstore.ErrNotFound)
}

func (s *fakeSource) VolumeByID(id string) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.volumes {
		if v.id == id {
			return v.info(), nil
		}
	}
	return objstore.VolumeInfo{}, fmt.Errorf("volume %s: %w", id, objstore.ErrNotFound)
}

// rename gives a volume, and its snapshots, another name.
func (s *fakeSource) rename(from, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[from]
	v.mu.Lock()
	v.name = to
	v.mu.Unlock()
	delete(s.volumes, from)
	s.volumes[to] = v
	for _, sn := range s.snaps[from] {
		sn.info.Volume = to
	}
	s.snaps[to] = s.snaps[from]
	delete(s.snaps, from)
}

// renameSnapshot gives a snapshot another name.
func (s *fakeSource) renameSnapshot(volume, from, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := s.snaps[volume][from]
	sn.info.Name = to
	delete(s.snaps[volume], from)
	s.snaps[volume][to] = sn
}

func (s *fakeSource) OpenVolume(name, user string) (Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[name]
	if v == nil {
		return nil, fmt.Errorf("volume %s: %w", name, objstore.ErrNotFound)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.users = append(v.users, user)
	return v, nil
}

func (s *fakeSource) Snapshots(volume string) ([]objstore.SnapshotInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if volume != "" && s.volumes[volume] == nil && len(s.snaps[volume]) == 0 {
		return nil, objstore.ErrNotFound
	}
	var out []objstore.SnapshotInfo
	for v, snaps := range s.snaps {
		for _, snap := range snaps {
			if volume == "" || v == volume {
				out = append(out, snap.info)
			}
		}
	}
	slices.SortFunc(out, func(a, b objstore.SnapshotInfo) int { return a.Created.Compare(b.Created) })
	return out, nil
}

func (s *fakeSource) SnapshotInfo(volume, snap string) (objstore.SnapshotInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sn := s.snaps[volume][snap]; sn != nil {
		return sn.info, nil
	}
	return objstore.SnapshotInfo{}, objstore.ErrNotFound
}

func (s *fakeSource) OpenSnapshot(volume, snap string) (Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sn := s.snaps[volume][snap]; sn != nil {
		return sn.disk, nil
	}
	return nil, objstore.ErrNotFound
}

func (s *fakeSource) Roots() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	roots := make(map[string]struct{})
	for _, snaps := range s.snaps {
		for _, snap := range snaps {
			if snap.info.Root != "" {
				roots[snap.info.Root] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(roots))
}

func (s *fakeSource) RootInfo(root string) (objstore.RootInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, snaps := range s.snaps {
		for _, snap := range snaps {
			if snap.info.Root == root {
				return objstore.RootInfo{Root: root, Size: snap.info.Size, Logical: snap.info.Logical}, nil
			}
		}
	}
	return objstore.RootInfo{}, objstore.ErrNotFound
}

func (s *fakeSource) OpenRoot(root string) (Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, snaps := range s.snaps {
		for _, snap := range snaps {
			if snap.info.Root == root {
				return snap.disk, nil
			}
		}
	}
	return nil, objstore.ErrNotFound
}

// History: nothing has settled.
func (s *fakeSource) History(string) ([]objstore.SnapshotInfo, error) { return nil, nil }

// Diff says that every image differs from every other one in its first bytes.
func (s *fakeSource) Diff(ctx context.Context, from, to objstore.ImageName, begin func(objstore.DiffImages) error,
	changed func(objstore.Change) error,
) (objstore.DiffTotal, error) {
	total := objstore.DiffTotal{Ranges: 1, Bytes: 512}
	if err := begin(objstore.DiffImages{From: objstore.DiffImage{ImageName: from}, To: objstore.DiffImage{ImageName: to}}); err != nil {
		return total, err
	}
	if err := changed(objstore.Change{Len: 512}); err != nil {
		return total, err
	}
	return total, ctx.Err()
}

func (s *fakeSource) Space() (used, free int64, err error) { return 3 << 20, 5 << 20, nil }

// fakeVolume is a fakeDisk with a name and users.
type fakeVolume struct {
	*fakeDisk
	name     string // guarded by mu
	id       string
	created  time.Time
	users    []string // guarded by mu
	flushes  int      // guarded by mu
	failWith error    // of writes and flushes, guarded by mu
	changes  uint64   // guarded by mu
	claims   [2]int   // by objstore.Side, guarded by mu

	noRoom atomic.Bool // writes wait
}

func (v *fakeVolume) Name() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.name
}

func (v *fakeVolume) Claim(side objstore.Side) (func(), error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.claims[1-side] > 0 {
		return nil, objstore.ErrInUse
	}
	v.claims[side]++
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.claims[side]--
	}, nil
}

func (v *fakeVolume) Changes() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changes
}

func (v *fakeVolume) info() objstore.VolumeInfo {
	data := v.data()
	v.mu.Lock()
	defer v.mu.Unlock()
	return objstore.VolumeInfo{
		Name: v.name, ID: v.id, Size: v.size, BlockSize: 512, Created: v.created, Tail: data,
		Users: slices.Clone(v.users),
	}
}

func (v *fakeVolume) opens() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.users)
}

func (v *fakeVolume) flushed() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.flushes
}

func (v *fakeVolume) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failWith = err
}

func (v *fakeVolume) WriteAt(p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failWith != nil {
		return 0, v.failWith
	}
	v.changes++
	return v.write(p, off)
}

func (v *fakeVolume) Zero(off, length int64) error {
	if off%objstore.SectorSize != 0 || length%objstore.SectorSize != 0 {
		return fmt.Errorf("zero %d at %d: %w", length, off, objstore.ErrInvalid)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for s := off / objstore.SectorSize; s < (off+length)/objstore.SectorSize; s++ {
		delete(v.sectors, s)
	}
	return nil
}

func (v *fakeVolume) WriteContext(ctx context.Context, p []byte, off int64) (int, error) {
	if err := v.wait(ctx); err != nil {
		return 0, err
	}
	return v.WriteAt(p, off)
}

func (v *fakeVolume) ZeroContext(ctx context.Context, off, length int64) error {
	if err := v.wait(ctx); err != nil {
		return err
	}
	return v.Zero(off, length)
}

// wait waits for ctx while the volume has no room.
func (v *fakeVolume) wait(ctx context.Context) error {
	if !v.noRoom.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (v *fakeVolume) Flush() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.flushes++
	return v.failWith
}

func (v *fakeVolume) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.users = v.users[:len(v.users)-1]
	return nil
}

// fakeDisk is a sparse disk of sectors.
type fakeDisk struct {
	reading atomic.Pointer[func()] // called by each read, before it waits for mu; nil: nothing
	size    int64
	mu      sync.Mutex
	sectors map[int64][]byte // guarded by mu
	lost    atomic.Bool      // reads wait
}

func newFakeDisk(size int64) *fakeDisk {
	return &fakeDisk{size: size, sectors: make(map[int64][]byte)}
}

func (d *fakeDisk) copy() *fakeDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := newFakeDisk(d.size)
	for n, s := range d.sectors {
		c.sectors[n] = bytes.Clone(s)
	}
	return c
}

func (d *fakeDisk) data() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.sectors)) * objstore.SectorSize
}

func (d *fakeDisk) root() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := sha256.New()
	for _, n := range slices.Sorted(maps.Keys(d.sectors)) {
		fmt.Fprintf(h, "%d:", n)
		h.Write(d.sectors[n])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (d *fakeDisk) Size() int64 { return d.size }

func (d *fakeDisk) Close() error { return nil }

func (d *fakeDisk) ReadContext(ctx context.Context, p []byte, off int64) (int, error) {
	if d.lost.Load() {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return d.ReadAt(p, off)
}

func (d *fakeDisk) ReadAt(p []byte, off int64) (int, error) {
	if f := d.reading.Load(); f != nil {
		(*f)()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for n < len(p) && off < d.size {
		in := off % objstore.SectorSize
		part := p[n:min(int64(len(p)), int64(n)+objstore.SectorSize-in)]
		if s := d.sectors[off/objstore.SectorSize]; s != nil {
			copy(part, s[in:])
		} else {
			clear(part)
		}
		n += len(part)
		off += int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// write is called with mu held.
func (d *fakeDisk) write(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > d.size {
		return 0, objstore.ErrInvalid
	}
	for n := 0; n < len(p); {
		in := off % objstore.SectorSize
		s := d.sectors[off/objstore.SectorSize]
		if s == nil {
			s = make([]byte, objstore.SectorSize)
			d.sectors[off/objstore.SectorSize] = s
		}
		c := copy(s[in:], p[n:])
		n += c
		off += int64(c)
	}
	return len(p), nil
}

func (d *fakeDisk) Extent(_ context.Context, off int64) (bool, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off >= d.size {
		return false, 0, objstore.ErrInvalid
	}
	first := off / objstore.SectorSize
	_, data := d.sectors[first]
	end := first + 1
	for end*objstore.SectorSize < d.size {
		if _, also := d.sectors[end]; also != data {
			break
		}
		end++
	}
	return !data, min(end*objstore.SectorSize, d.size) - off, nil
}
