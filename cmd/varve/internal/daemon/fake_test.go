package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStore knows volumes and snapshots by name, and nothing else.
type fakeStore struct {
	mu        sync.Mutex
	volumes   map[string]objstore.VolumeInfo
	snapshots []objstore.SnapshotInfo
	panics    bool
	scratches int // made

	collected     []objstore.CollectOptions // that were begun
	checkTakes    time.Duration
	collectGoesOn chan struct{}           // a receive from it ends a collection; may be nil
	checks        []objstore.CheckOptions // that were begun
	due           bool                    // a scheduled check is
	maintenance   objstore.Maintenance

	policyDue      []string // volumes of which a snapshot is due, however many were made
	automatic      int      // snapshots made by policies
	automaticErr   error
	automaticTakes time.Duration
}

func newFakeStore(volumes ...string) *fakeStore {
	s := &fakeStore{volumes: map[string]objstore.VolumeInfo{}}
	for _, v := range volumes {
		s.volumes[v] = objstore.VolumeInfo{Name: v, MarkName: v, Size: 1 << 30, BlockSize: 512}
	}
	return s
}

func (s *fakeStore) CreateVolume(_ context.Context, name string, o objstore.VolumeOptions) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.volumes[name]; ok {
		return objstore.VolumeInfo{}, fmt.Errorf("volume %s: %w", name, objstore.ErrExists)
	}
	v := objstore.VolumeInfo{Name: name, MarkName: name, Size: o.Size, BlockSize: max(o.BlockSize, 512)}
	s.volumes[name] = v
	return v, nil
}

func (s *fakeStore) CloneVolume(ctx context.Context, volume, _, name string) (objstore.VolumeInfo, error) {
	v, err := s.VolumeInfo(volume)
	if err != nil {
		return v, err
	}
	return s.CreateVolume(ctx, name, objstore.VolumeOptions{Size: v.Size, BlockSize: v.BlockSize})
}

func (s *fakeStore) ResizeVolume(_ context.Context, name string, size int64, o objstore.ResizeOptions) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[name]
	switch {
	case !ok:
		return v, fmt.Errorf("volume %s: %w", name, objstore.ErrNotFound)
	case size < v.Size && !o.Shrink:
		return v, objstore.ErrInvalid
	}
	v.Size = size
	s.volumes[name] = v
	return v, nil
}

func (s *fakeStore) RollbackVolume(_ context.Context, volume, snap string, o objstore.RollbackOptions) (objstore.Rollback, error) {
	v, err := s.VolumeInfo(volume)
	r := objstore.Rollback{Volume: v}
	if !o.NoSnapshot {
		r.Snapshot = "before-" + snap
	}
	return r, err
}

func (s *fakeStore) RenameVolume(_ context.Context, name, to string) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[name]
	if !ok {
		return v, fmt.Errorf("volume %s: %w", name, objstore.ErrNotFound)
	}
	if _, taken := s.volumes[to]; taken {
		return v, fmt.Errorf("volume %s: %w", to, objstore.ErrExists)
	}
	v.Name = to
	delete(s.volumes, name)
	s.volumes[to] = v
	return v, nil
}

func (s *fakeStore) RenameSnapshot(_ context.Context, volume, snap, to string) (objstore.SnapshotInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.snapshots {
		if s.snapshots[i].Volume == volume && s.snapshots[i].Name == snap {
			s.snapshots[i].Name = to
			return s.snapshots[i], nil
		}
	}
	return objstore.SnapshotInfo{}, objstore.ErrNotFound
}

func (s *fakeStore) VolumeByID(id string) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.volumes {
		if v.ID == id {
			return v, nil
		}
	}
	return objstore.VolumeInfo{}, objstore.ErrNotFound
}

func (s *fakeStore) NewUUID() (string, error) { return "new", nil }

func (s *fakeStore) AcceptCopies(context.Context, objstore.CopiedFrom) ([]string, error) {
	return nil, nil
}

func (s *fakeStore) SetVolume(_ context.Context, name string, c objstore.VolumeChange) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[name]
	if !ok {
		return v, fmt.Errorf("volume %s: %w", name, objstore.ErrNotFound)
	}
	if c.Verify != nil {
		v.Verify = *c.Verify
	}
	if c.Quota != nil {
		v.Quota = *c.Quota
	}
	s.volumes[name] = v
	return v, nil
}

func (s *fakeStore) DeleteVolume(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.volumes[name]; !ok {
		return fmt.Errorf("volume %s: %w", name, objstore.ErrNotFound)
	}
	delete(s.volumes, name)
	return nil
}

// CreateScratch makes volumes that are called scratch-0, scratch-1 and so on.
func (s *fakeStore) CreateScratch(_ context.Context, volume, snap string) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[volume]
	v.Name, v.Of = fmt.Sprintf("scratch-%d", s.scratches), volume+"@"+snap
	s.scratches++
	s.volumes[v.Name] = v
	return v, nil
}

func (s *fakeStore) ScratchVolumes() []objstore.VolumeInfo {
	return slices.DeleteFunc(s.Volumes(), func(v objstore.VolumeInfo) bool { return v.Of == "" })
}

func (s *fakeStore) RepairVolume(_ context.Context, name string, accept bool) (objstore.Repair, error) {
	if _, err := s.VolumeInfo(name); err != nil {
		return objstore.Repair{}, err
	}
	return objstore.Repair{Volume: name, Done: accept}, nil
}

func (s *fakeStore) CheckStore(ctx context.Context, o objstore.CheckOptions) (*objstore.CheckReport, error) {
	s.mu.Lock()
	s.checks = append(s.checks, o)
	takes := s.checkTakes
	s.mu.Unlock()
	if o.Progress != nil {
		o.Progress(objstore.CheckProgress{Done: 1, Total: 2})
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
	}
	return &objstore.CheckReport{Damage: []objstore.Damage{{File: "segments/00000001.seg"}}}, ctx.Err()
}

func (s *fakeStore) SetMaintenance(change func(objstore.Maintenance) objstore.Maintenance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maintenance = change(s.maintenance)
	return nil
}

func (s *fakeStore) ScrubDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due
}

func (s *fakeStore) ScrubOptions() objstore.CheckOptions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return objstore.CheckOptions{Scheduled: true, Resume: true}
}

func (s *fakeStore) Reindex() error { return nil }

func (s *fakeStore) WaitReindex(_ context.Context, progress func(objstore.ReindexInfo)) error {
	progress(objstore.ReindexInfo{Segments: 2, Done: 1})
	return nil
}

func (s *fakeStore) Collect(ctx context.Context, o objstore.CollectOptions) (objstore.CollectReport, error) {
	s.mu.Lock()
	s.collected = append(s.collected, o)
	takes, goesOn := s.checkTakes, s.collectGoesOn
	s.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-goesOn:
	case <-ctx.Done():
	}
	return objstore.CollectReport{DryRun: o.DryRun, Dead: 1, Freed: 4096}, ctx.Err()
}

func (s *fakeStore) CollectState() objstore.CollectState {
	return objstore.CollectState{Phase: objstore.CollectSweeping, Done: 1, Total: 2}
}

// begun returns the checks that were begun.
func (s *fakeStore) begun() []objstore.CheckOptions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.checks)
}

func (s *fakeStore) Volumes() []objstore.VolumeInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("a bug")
	}
	var list []objstore.VolumeInfo
	for _, v := range s.volumes {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b objstore.VolumeInfo) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (s *fakeStore) VolumeInfo(name string) (objstore.VolumeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[name]
	if !ok {
		return v, fmt.Errorf("volume %s: %w", name, objstore.ErrNotFound)
	}
	return v, nil
}

func (s *fakeStore) CreateSnapshot(_ context.Context, volume, snap string) (objstore.SnapshotInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := objstore.SnapshotInfo{Volume: volume, Name: snap}
	s.snapshots = append(s.snapshots, i)
	return i, nil
}

// WaitSnapshot waits for ever for a snapshot that is called never, and a while for one that is
// called slow.
func (s *fakeStore) WaitSnapshot(ctx context.Context, volume, snap string) (objstore.SnapshotInfo, error) {
	if snap == "never" {
		<-ctx.Done()
		return objstore.SnapshotInfo{}, ctx.Err()
	}
	if snap == "slow" {
		select {
		case <-ctx.Done():
			return objstore.SnapshotInfo{}, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	return objstore.SnapshotInfo{Volume: volume, Name: snap, Root: "12ab"}, nil
}

func (s *fakeStore) DeleteSnapshot(_ context.Context, volume, snap string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.snapshots)
	s.snapshots = slices.DeleteFunc(s.snapshots, func(i objstore.SnapshotInfo) bool { return i.Volume == volume && i.Name == snap })
	if len(s.snapshots) == n {
		return objstore.ErrNotFound
	}
	return nil
}

func (s *fakeStore) Snapshots(string) ([]objstore.SnapshotInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshots, nil
}

func (s *fakeStore) SharedVolumes(context.Context) ([]objstore.VolumeInfo, error) {
	return s.Volumes(), nil
}

func (s *fakeStore) SharedVolume(_ context.Context, name string) (objstore.VolumeInfo, error) {
	return s.VolumeInfo(name)
}

func (s *fakeStore) SharedSnapshots(_ context.Context, volume string) ([]objstore.SnapshotInfo, error) {
	return s.Snapshots(volume)
}

func (s *fakeStore) WouldFree(ctx context.Context, _ []string, _ []objstore.SnapshotName) (objstore.Freed, error) {
	if _, limited := ctx.Deadline(); limited {
		return objstore.Freed{}, errors.New("snapshots may take longer to settle")
	}
	return objstore.Freed{}, nil
}

func (s *fakeStore) SnapshotsDue() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.policyDue)
}

func (s *fakeStore) CreateAutomatic(ctx context.Context, volume string) (objstore.SnapshotInfo, error) {
	s.mu.Lock()
	s.automatic++
	i := objstore.SnapshotInfo{Volume: volume, Name: fmt.Sprint("auto-", s.automatic), Automatic: true}
	err, takes := s.automaticErr, s.automaticTakes
	s.mu.Unlock()
	if err == nil && takes > 0 {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(takes):
		}
	}
	if err == nil {
		s.mu.Lock()
		s.snapshots = append(s.snapshots, i)
		s.mu.Unlock()
	}
	return i, err
}

// Prunable: every automatic snapshot but the newest.
func (s *fakeStore) Prunable(volume string) (states, snapshots []objstore.SnapshotInfo, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.snapshots {
		if i.Automatic && i.Volume == volume && i.Name != fmt.Sprint("auto-", s.automatic) {
			snapshots = append(snapshots, i)
		}
	}
	return nil, snapshots, nil
}

func (s *fakeStore) PruneHistory(context.Context, string) ([]objstore.SnapshotInfo, error) {
	return nil, nil
}
func (s *fakeStore) History(string) ([]objstore.SnapshotInfo, error) { return nil, nil }

func (s *fakeStore) Diff(context.Context, objstore.ImageName, objstore.ImageName, func(objstore.DiffImages) error,
	func(objstore.Change) error,
) (objstore.DiffTotal, error) {
	return objstore.DiffTotal{}, objstore.ErrNotFound
}

func (s *fakeStore) CountedStat(context.Context) (objstore.Stat, error) { return s.Stat() }

func (s *fakeStore) Stat() (objstore.Stat, error)            { return objstore.Stat{UUID: "u-u-i-d"}, nil }
func (s *fakeStore) SetMaxSize(context.Context, int64) error { return nil }
func (s *fakeStore) Close() error                            { return nil }
func (s *fakeStore) Settle(context.Context) error            { return nil }
func (s *fakeStore) Quiesce() error                          { return nil }
func (s *fakeStore) Resume()                                 {}

// fakeTransport makes fakeDevices.
type fakeTransport struct {
	kind     string
	canLeave bool
	absent   error // what Attach says where there is no such transport
	dying    bool  // Attach dies with its device made, like a process

	mu        sync.Mutex
	next      int
	devices   map[string]*fakeDevice // the last of each volume
	waiting   []protocol.Attachment  // what Find finds
	discarded []string               // nodes, or volumes where they are not known
	recovered []string               // nodes
	broken    error                  // what Recover says
	unlisted  error                  // what Find says
	stuck     error                  // what Discard says
	open      bool                   // what waits is in use
	asked     []string               // the names that Find was given
	tries     int                    // of Recover
	scanned   error                  // what ScanPartitions of its devices says
	recover   func(volume string)    // called by Recover, if it is set, without the lock
	attaching func(volume string)    // called by Attach, with the lock
	slow      map[string]*hang       // of volumes, for Attach and Recover
}

func newFakeTransport(kind string, canLeave bool) *fakeTransport {
	return &fakeTransport{kind: kind, canLeave: canLeave, devices: map[string]*fakeDevice{}}
}

func (t *fakeTransport) Attach(ctx context.Context, r protocol.Attach) (devices.Device, protocol.Attachment, error) {
	if err := t.wait(ctx, r.Volume); err != nil {
		return nil, protocol.Attachment{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attaching != nil {
		t.attaching(r.Volume)
	}
	if t.dying {
		panic("killed")
	}
	if t.absent != nil {
		return nil, protocol.Attachment{}, protocol.As(protocol.ErrNoTransport, t.absent)
	}
	a := protocol.Attachment{Device: fmt.Sprintf("/dev/%s%d", t.kind, t.next), Transport: t.kind, ID: t.next, ReadOnly: r.ReadOnly, Mark: uint64(1000 + t.next)}
	t.next++
	d := &fakeDevice{canLeave: t.canLeave, scanned: t.scanned, done: make(chan struct{})}
	t.devices[r.Volume] = d
	return d, a, nil
}

func (t *fakeTransport) Find(_ context.Context, c instance.Claims) ([]protocol.Attachment, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = slices.Clone(c.Names)
	return slices.Clone(t.waiting), t.unlisted
}

// Foreign: all of them are there.
func (t *fakeTransport) Foreign(_ context.Context, noted []protocol.Attachment, _ instance.Claims) []protocol.Attachment {
	found := slices.DeleteFunc(slices.Clone(noted), func(a protocol.Attachment) bool { return !strings.HasPrefix(a.Device, "/dev/"+t.kind) })
	for i := range found {
		found[i].State, found[i].Error = protocol.StateForeign, "another's"
	}
	return found
}

func (t *fakeTransport) Recover(ctx context.Context, a protocol.Attachment) (devices.Device, error) {
	if err := t.wait(ctx, a.Volume); err != nil {
		return nil, err
	}
	t.mu.Lock()
	if recovering := t.recover; recovering != nil {
		t.mu.Unlock()
		recovering(a.Volume)
		t.mu.Lock()
	}
	defer t.mu.Unlock()
	t.tries++
	if t.broken != nil {
		return nil, t.broken
	}
	t.recovered = append(t.recovered, a.Device)
	t.waiting = slices.DeleteFunc(t.waiting, func(w protocol.Attachment) bool { return w.Device == a.Device })
	d := &fakeDevice{canLeave: t.canLeave, scanned: t.scanned, done: make(chan struct{})}
	t.devices[a.Volume] = d
	return d, nil
}

func (t *fakeTransport) Discard(_ context.Context, a protocol.Attachment, force bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open && !force {
		return protocol.ErrBusy
	}
	if t.stuck != nil {
		return t.stuck
	}
	t.waiting = slices.DeleteFunc(t.waiting, func(w protocol.Attachment) bool { return w.Device == a.Device })
	t.discarded = append(t.discarded, cmp.Or(a.Device, a.Volume))
	return nil
}

func (t *fakeTransport) Close() error { return nil }

// wait waits while the volume's device hangs.
func (t *fakeTransport) wait(ctx context.Context, volume string) error {
	t.mu.Lock()
	h := t.slow[volume]
	t.mu.Unlock()
	if h == nil {
		return nil
	}
	return h.wait(ctx)
}

func (t *fakeTransport) device(volume string) *fakeDevice {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.devices[volume]
}

// set says what is the matter with the devices that wait.
func (t *fakeTransport) set(broken error, open bool, waiting ...protocol.Attachment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken, t.open, t.waiting = broken, open, waiting
}

func (t *fakeTransport) seen() (recovered, discarded []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.recovered), slices.Clone(t.discarded)
}

type fakeDevice struct {
	canLeave bool
	once     sync.Once
	done     chan struct{}

	mu    sync.Mutex
	open  bool
	how   string // it ended
	error error  // what Stop says
	half  bool   // Stop fails when the device has ended already
	slow  *hang  // of Stop

	scans   int   // how often its partition table was read
	scanned error // what that says

	size    int64 // the last that it got
	resized error // what Resize says
}

func (d *fakeDevice) ScanPartitions(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.scans++
	return d.scanned
}

func (d *fakeDevice) Resize(_ context.Context, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resized == nil {
		d.size = size
	}
	return d.resized
}

func (d *fakeDevice) end(how string) {
	d.mu.Lock()
	d.how = how
	d.mu.Unlock()
	d.once.Do(func() { close(d.done) })
}

func (d *fakeDevice) set(open bool) *fakeDevice {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = open
	return d
}

// fails makes Stop fail.
func (d *fakeDevice) fails(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.error = err
}

func (d *fakeDevice) ended() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.how
}

// hang makes Stop hang.
func (d *fakeDevice) hang(h *hang) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = h
}

func (d *fakeDevice) Stop(ctx context.Context, force bool) error {
	d.mu.Lock()
	open, err, half, slow := d.open, d.error, d.half, d.slow
	d.mu.Unlock()
	if slow != nil {
		if err := slow.wait(ctx); err != nil {
			return err
		}
	}
	switch {
	case err != nil && half:
		d.end("half")
		time.Sleep(50 * time.Millisecond) // whoever watches for it has seen it
		return err
	case err != nil:
		return err
	case open && !force:
		return protocol.ErrBusy
	case open:
		d.end("forced")
	default:
		d.end("stopped")
	}
	return nil
}

func (d *fakeDevice) Claimed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

func (d *fakeDevice) Leave(context.Context) error {
	if !d.canLeave {
		return devices.ErrCannotLeave
	}
	d.end("left")
	return nil
}

func (d *fakeDevice) Done() <-chan struct{} { return d.done }

func (d *fakeDevice) Err() error { return errors.New(d.ended()) }

// fakeMounter makes fakeMounts.
type fakeMounter struct {
	slow   map[string]*hang // by directory
	mu     sync.Mutex
	mounts map[string]*fakeMount
}

func (m *fakeMounter) Mount(r protocol.Mount, _ volumeDevices) (mounted, error) {
	if h := m.slow[r.Dir]; h != nil {
		if err := h.wait(context.Background()); err != nil { // mount(2) has no context
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mounts == nil {
		m.mounts = map[string]*fakeMount{}
	}
	k := &fakeMount{done: make(chan struct{})}
	m.mounts[r.Dir] = k
	return k, nil
}

type fakeMount struct {
	busy   bool
	sudden bool // busy, and nobody knew
	forced bool
	slow   *hang
	done   chan struct{}

	mu        sync.Mutex
	refreshed []string // volumes
}

func (m *fakeMount) Refresh(volume string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refreshed = append(m.refreshed, volume)
}

// refreshes are the volumes that were refreshed since it was asked last.
func (m *fakeMount) refreshes() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.refreshed
	m.refreshed = nil
	return list
}

func (m *fakeMount) Unmount(force bool) error {
	if m.slow != nil {
		if err := m.slow.wait(context.Background()); err != nil {
			return err
		}
	}
	if (m.busy || m.sudden) && !force {
		return protocol.ErrBusy
	}
	m.forced = force
	close(m.done)
	return nil
}

func (m *fakeMount) Busy() bool { return m.busy }

func (m *fakeMount) Done() <-chan struct{} { return m.done }
