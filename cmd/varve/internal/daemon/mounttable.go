package daemon

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"varve/cmd/varve/internal/protocol"
)

// mountTable has the mounts that a daemon serves, and keeps the list on disk up to date with them.
// It is safe for concurrent use, but for mount and unmount, whose caller has the turn of the
// directory.
type mountTable struct {
	mounter  mounter // nil: this process mounts nothing
	devices  volumeDevices
	save     func([]protocol.Mount) // writes the mounts to the list on disk
	watchers *sync.WaitGroup        // of the daemon: it waits for the end of each mount
	log      *slog.Logger

	saving sync.Mutex        // held over save; taken before mu
	mu     sync.Mutex        // never held over I/O
	byDir  map[string]*mount // guarded by mu
}

// mount is an entry of a mountTable.
type mount struct {
	protocol.Mount
	m       mounted
	leaving bool // this daemon is unmounting it, or has; guarded by mountTable.mu
}

// all returns the mounts in no order.
func (t *mountTable) all() []*mount {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.byDir))
}

// list describes the mounts, in order of their directories.
func (t *mountTable) list() []protocol.Mount {
	list := []protocol.Mount{}
	for _, k := range t.all() {
		list = append(list, k.Mount)
	}
	slices.SortFunc(list, func(a, b protocol.Mount) int { return cmp.Compare(a.Dir, b.Dir) })
	return list
}

// at returns the mount at a directory, or nil.
func (t *mountTable) at(dir string) *mount {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byDir[dir]
}

// saveList writes the mounts of this moment to the list on disk.
func (t *mountTable) saveList() {
	t.saving.Lock()
	defer t.saving.Unlock()
	t.save(t.list())
}

// mount mounts the store at a directory that has no mount yet.
//
// REQUIRES: the caller has the turn of the directory.
func (t *mountTable) mount(r protocol.Mount) error {
	m, err := t.mounter.Mount(r, t.devices)
	if err != nil {
		return err
	}
	k := &mount{Mount: r, m: m}
	t.mu.Lock()
	t.byDir[r.Dir] = k
	t.mu.Unlock()
	t.saveList()
	t.log.Info("mounted", "dir", r.Dir, "allow_other", r.AllowOther)
	t.watchers.Go(func() {
		<-m.Done()
		if ours := t.drop(k); !ours {
			t.log.Info("unmounted by another process", "dir", r.Dir)
		}
	})
	return nil
}

// unmount removes a mount. With force it removes a mount that is in use too, and operations on its
// open files fail from then on.
//
// REQUIRES: the caller has the turn of the directory.
func (t *mountTable) unmount(k *mount, force bool) error {
	t.setLeaving(k, true)
	if err := k.m.Unmount(force); err != nil {
		t.setLeaving(k, false)
		return err
	}
	t.drop(k)
	t.log.Info("unmounted", "dir", k.Dir, "force", force)
	return nil
}

func (t *mountTable) setLeaving(k *mount, leaving bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k.leaving = leaving
}

// drop removes a mount that has ended from the table, and reports whether this daemon unmounted it.
// When it returns, the list on disk does not have the mount any more, even if another call of drop
// removed the entry.
func (t *mountTable) drop(k *mount) (ours bool) {
	t.mu.Lock()
	if t.byDir[k.Dir] == k {
		delete(t.byDir, k.Dir)
	}
	ours = k.leaving
	t.mu.Unlock()
	t.saveList()
	return ours
}

// refresh makes the kernel drop its cached pages of a volume's live file in all mounts. It waits
// for that, but no longer than pagesTimeout.
func (t *mountTable) refresh(volume string) {
	mounts := t.all()
	if len(mounts) == 0 {
		return
	}
	done := make(chan struct{})
	t.watchers.Go(func() {
		defer close(done)
		for _, k := range mounts {
			k.m.Refresh(volume)
		}
	})
	select {
	case <-done:
	case <-time.After(pagesTimeout):
		t.log.Warn("mappings of the live file may show old content", "volume", volume)
	}
}
