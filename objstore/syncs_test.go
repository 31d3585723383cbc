package objstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"varve/objstore/vfs"
)

// syncMeter counts syncs, and how many are under way at once. Each takes long enough for others to
// begin.
type syncMeter struct {
	mu        sync.Mutex
	on        bool
	count     int
	now, most int
	names     []string
}

func (m *syncMeter) hook(op vfs.Op) error {
	if op.Kind != vfs.OpDatasync && op.Kind != vfs.OpSyncDir {
		return nil
	}
	m.mu.Lock()
	if !m.on {
		m.mu.Unlock()
		return nil
	}
	m.count++
	m.names = append(m.names, op.Name)
	m.now++
	m.most = max(m.most, m.now)
	m.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	m.mu.Lock()
	m.now--
	m.mu.Unlock()
	return nil
}

func (m *syncMeter) measure(f func()) (count, most int, names []string) {
	m.mu.Lock()
	m.on, m.count, m.most, m.names = true, 0, 0, nil
	m.mu.Unlock()
	f()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = false
	return m.count, m.most, m.names
}

// A snapshot syncs the data, the journal, the names of both journals and both files of refs once,
// the last two at once.
func TestSnapshotSyncs(t *testing.T) {
	m := &syncMeter{}
	r := newRig(t, Options{})
	must(t, r.s.Close())
	r.open(m.hook)
	must(t, r.s.Quiesce()) // no settling beside it
	defer r.s.Resume()
	v := r.volume("a", 16<<20)
	together := 0    // at most, of four: a goroutine may begin late
	least := 1 << 10 // of four: beside the first ones the spare segment is made
	var what []string
	for i := range 4 {
		r.write(v, randomBytes(uint64(i), 8192), int64(i)<<20)
		count, most, names := m.measure(func() {
			_, err := r.s.CreateSnapshot(context.Background(), "a", fmt.Sprintf("s%d", i))
			must(t, err)
		})
		together = max(together, most)
		if count < least {
			least, what = count, names
		}
	}
	if least > 6 {
		t.Errorf("a snapshot syncs %d times: %v", least, what)
	}
	if together < 2 {
		t.Error("the files of refs are synced one after the other")
	}
}

// The tails of many volumes are replayed side by side.
func TestOpeningSyncsTogether(t *testing.T) {
	r := newRig(t, Options{})
	const volumes = 24
	for i := range volumes {
		v := r.volume(fmt.Sprintf("v%d", i), 1<<20)
		r.write(v, randomBytes(uint64(i), 8192), 0)
	}
	r.mem = r.mem.Kill()
	_ = r.s.Close()
	m := &syncMeter{}
	count, most, _ := m.measure(func() { r.open(m.hook) })
	if count < volumes || most < 2 {
		t.Errorf("opening %d volumes with tails syncs %d times, at most %d at once", volumes, count, most)
	}
	for i := range volumes {
		v := r.volume(fmt.Sprintf("v%d", i), 0)
		got := make([]byte, 8192)
		_, err := v.ReadAt(got, 0)
		must(t, err)
		if string(got) != string(randomBytes(uint64(i), 8192)) {
			t.Errorf("volume %d reads something else", i)
		}
	}
}
