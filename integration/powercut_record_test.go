//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/integration/facts"
	"varve/integration/logwrites"
)

// recording is what a workload has written, and what was acknowledged to it. Its files are in dir:
//
//	disk.img    the disk before the log begins, with a store whose volumes have filesystems
//	disk.log    the writes to the disk since then
//	VOLUME.log  the writes to each volume
//	facts.json  the rest of this struct
type recording struct {
	Lower  string
	Uppers []upper
	Facts  []facts.Fact

	dir    string
	log    *logwrites.Log
	marks  []int // of each fact: the entry of the log
	uppers []upperLog
}

type upper struct{ Volume, FS string }

// upperLog is the log of writes to a volume.
type upperLog struct {
	log   *logwrites.Log
	marks map[int]int // number of a fact: entry of the log
}

const (
	powerDisk   = 1 << 30
	powerVolume = 320 << 20 // the least that mkfs.xfs takes
)

// recorder makes a recording.
type recorder struct {
	*recording
	ctx context.Context
	t   *testing.T
	mu  sync.Mutex
}

// note records a fact in the log of the disk and in that of the volume.
func (r *recorder) note(f facts.Fact) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := strconv.Itoa(len(r.Facts))
	r.Facts = append(r.Facts, f)
	for _, u := range r.Uppers {
		if u.Volume == f.Volume || f.What == facts.Ready {
			r.command("dmsetup", "message", "cut-"+u.Volume, "0", "mark", n)
		}
	}
	r.command("dmsetup", "message", "cut-disk", "0", "mark", n)
}

// command is must for any goroutine.
func (r *recorder) command(name string, args ...string) string {
	res := run(r.ctx, name, args...)
	if res.code != 0 {
		r.t.Errorf("%s %s: exit status %d\n%s%s", name, strings.Join(args, " "), res.code, res.stdout, res.stderr)
	}
	return strings.TrimSpace(res.stdout)
}

// mapper creates a log-writes device of that name over dev, with a new log in file, and one above it
// that makes the log exact, and returns the node of the latter.
//
// log_writes_map (drivers/md/dm-log-writes.c, Linux 7.3) takes the writes that have completed for a
// flush, and only then submits that flush. If another thread runs in between, its own flush finds
// nothing to take and returns first; and what it then writes with FUA is in the log before the data
// that it has flushed. So flushes come from one thread: that of dm-delay, which passes all else on
// at once (flush_worker_fast in drivers/md/dm-delay.c, the same Linux). TestLogOrder holds it.
func mapper(ctx context.Context, t *testing.T, name, dev, file string) string {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 4<<30); err != nil {
		t.Fatal(err)
	}
	logdev := losetup(ctx, t, file)
	sectors := must(ctx, t, "blockdev", "--getsz", dev)
	must(ctx, t, "dmsetup", "create", name, "--noudevsync", "--table", fmt.Sprintf("0 %s log-writes %s %s", sectors, dev, logdev))
	t.Cleanup(func() { run(context.Background(), "dmsetup", "remove", "--force", "--noudevsync", name) })
	log, exact := dmNode(ctx, t, name), name+"-exact"
	must(ctx, t, "dmsetup", "create", exact, "--noudevsync", "--table", fmt.Sprintf("0 %s delay %s 0 0 %s 0 0 %s 0 1", sectors, log, log, log))
	t.Cleanup(func() { run(context.Background(), "dmsetup", "remove", "--force", "--noudevsync", exact) })
	return dmNode(ctx, t, exact)
}

// dmNode returns the node of a device of the device mapper.
func dmNode(ctx context.Context, t *testing.T, name string) string {
	t.Helper()
	return "/dev/dm-" + must(ctx, t, "dmsetup", "info", "-c", "--noheadings", "-o", "minor", name)
}

// unmap removes a log-writes device, and fails the test if its log is incomplete.
func unmap(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	if s := must(ctx, t, "dmsetup", "status", name); strings.Contains(s, "logging_disabled") {
		t.Fatalf("the log of %s is not whole: %s", name, s)
	}
	for _, name := range []string{name + "-exact", name} {
		eventually(t, 20*time.Second, name+" goes", func() bool {
			return run(ctx, "dmsetup", "remove", "--noudevsync", name).code == 0
		})
	}
}

// writeBackEarly makes the kernel write dirty pages within a fraction of a second until the end of
// the test: mapped journals reach the disk before their data, as on a machine with little memory.
func writeBackEarly(t *testing.T) {
	for name, v := range map[string]string{"dirty_writeback_centisecs": "3", "dirty_expire_centisecs": "5"} {
		file := "/proc/sys/vm/" + name
		old, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(v), 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.WriteFile(file, old, 0) })
	}
}

// record runs the workload.
func record(ctx context.Context, t *testing.T, lower string, rounds int) *recording {
	t.Helper()
	began := time.Now()
	rec := &recording{Lower: lower, Uppers: []upper{{"e", "ext4"}, {"x", "xfs"}}, dir: t.TempDir()}
	r := &recorder{recording: rec, ctx: ctx, t: t}
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, powerDisk); err != nil {
		t.Fatal(err)
	}
	loop := losetup(ctx, t, image, "--direct-io=on")
	fsNamed(lower).make(ctx, t, loop)

	// The store and the filesystems are created before the log begins.
	serveArgs := []string{"--tail-soft", "4M", "--settle-delay", "200ms", "--journal-records", "2048", "--log-level", "debug"}
	m := mount(ctx, t, loop, "")
	n := newNodeAt(ctx, t, filepath.Join(m.dir, "store"))
	n.serve(ctx, serveArgs...)
	for _, u := range rec.Uppers {
		dev := n.volume(ctx, u.Volume, fmt.Sprint(powerVolume))
		fsNamed(u.FS).make(ctx, t, dev)
		n.varve(ctx, "detach", u.Volume)
	}
	n.stop(ctx)
	m.unmount(ctx)
	must(ctx, t, "cp", "--sparse=always", image, filepath.Join(rec.dir, "disk.img"))

	writeBackEarly(t)
	disk := mapper(ctx, t, "cut-disk", loop, filepath.Join(rec.dir, "disk.log"))
	options := "discard"
	m = mount(ctx, t, disk, options)
	n.store = filepath.Join(m.dir, "store")
	n.serve(ctx, serveArgs...)
	var work sync.WaitGroup
	var mounts []*mounted
	for _, u := range rec.Uppers {
		dev := mapper(ctx, t, "cut-"+u.Volume, n.attach(ctx, u.Volume), filepath.Join(rec.dir, u.Volume+".log"))
		mounts = append(mounts, mount(ctx, t, dev, options))
	}
	r.note(facts.Fact{What: facts.Ready})
	for i, u := range rec.Uppers {
		work.Add(1)
		go func() {
			defer work.Done()
			r.work(n, u.Volume, mounts[i].dir, rounds, uint64(i))
		}()
	}
	// Killing the daemon in between puts a recovery into the log, and segments and journals of two
	// processes.
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	for range 2 {
		select {
		case <-done:
		case <-time.After(time.Duration(rounds) * 60 * time.Millisecond):
			n.kill(ctx)
			n.serve(ctx, serveArgs...)
		}
	}
	<-done
	for i, u := range rec.Uppers {
		mounts[i].unmount(ctx)
		unmap(ctx, t, "cut-"+u.Volume)
		n.varve(ctx, "detach", u.Volume)
	}
	n.stop(ctx)
	m.unmount(ctx)
	unmap(ctx, t, "cut-disk")
	b, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rec.dir, "facts.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("recorded in %.0f s: %d facts", time.Since(began).Seconds(), len(rec.Facts))
	return rec
}

// work is the workload of one volume and its snapshots. The daemon may be missing for a moment.
func (r *recorder) work(n *node, volume, dir string, rounds int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 11))
	snaps := []string{}
	for i := range rounds {
		f := facts.Fact{What: facts.File, Volume: volume, Name: fmt.Sprintf("d%d/f%04d", i%3, i), Size: 1 + rng.IntN(150<<10), Seed: rng.Uint64()}
		if err := f.Write(dir); err != nil {
			r.t.Errorf("%s of volume %s: %v", f.Name, volume, err)
			return
		}
		r.note(f)
		if err := scribble(filepath.Join(dir, "database"), rng, 4+rng.IntN(12), i%2 == 0); err != nil {
			r.t.Errorf("database of volume %s: %v", volume, err)
			return
		}
		if i%4 == 3 {
			old := facts.Fact{What: facts.Unlink, Volume: volume, Name: fmt.Sprintf("d%d/f%04d", (i-3)%3, i-3)}
			r.note(old)
			if err := os.Remove(filepath.Join(dir, old.Name)); err != nil {
				r.t.Errorf("remove: %v", err)
			}
		}
		if i%9 == 5 {
			r.command("fstrim", dir)
		}
		if i%5 == 4 {
			s := facts.Fact{What: facts.Snapshot, Volume: volume, Name: fmt.Sprintf("s%d", i)}
			if s.Root = r.daemon(n, "snapshot", "create", volume+"@"+s.Name, "--wait"); s.Root != "" {
				r.note(s)
				snaps = append(snaps, s.Name)
			}
		}
		if len(snaps) > 3 {
			s := facts.Fact{What: facts.SnapshotDelete, Volume: volume, Name: snaps[0]}
			r.note(s)
			r.daemon(n, "snapshot", "delete", volume+"@"+s.Name)
			s.What = facts.SnapshotGone
			r.note(s)
			snaps = snaps[1:]
		}
		if i%4 == 1 {
			r.daemon(n, "gc", "--wait")
		}
		if i%10 == 6 {
			r.shortLife(n, fmt.Sprintf("%s-%d", volume, i))
		}
	}
}

// daemon runs a command that needs the daemon, and retries until a killed one is replaced. If the
// answer was lost with the daemon, it returns an empty string.
func (r *recorder) daemon(n *node, args ...string) string {
	for {
		res := n.try(r.ctx, args...)
		if res.code == 0 {
			return strings.TrimSpace(res.stdout)
		}
		lost := strings.Contains(res.stderr, "no daemon") || strings.Contains(res.stderr, "went away") || strings.Contains(res.stderr, "EOF") || strings.Contains(res.stderr, "reset") ||
			strings.Contains(res.stderr, "broken pipe") || strings.Contains(res.stderr, "closed") || strings.Contains(res.stderr, "refused") || strings.Contains(res.stderr, "open in another process")
		exists := strings.Contains(res.stderr, "exists") || strings.Contains(res.stderr, "not found")
		switch {
		case exists: // it was done, and the answer was lost
			return ""
		case !lost || r.ctx.Err() != nil:
			r.t.Errorf("varve %s: %s", strings.Join(args, " "), res.stderr)
			return ""
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// shortLife creates a volume and deletes it.
func (r *recorder) shortLife(n *node, name string) {
	r.note(facts.Fact{What: facts.VolumeCreate, Volume: name})
	r.daemon(n, "volume", "create", name, "--size", "1M")
	r.note(facts.Fact{What: facts.Volume, Volume: name, Size: 1 << 20})
	r.note(facts.Fact{What: facts.VolumeDelete, Volume: name})
	r.daemon(n, "volume", "delete", name)
	r.note(facts.Fact{What: facts.VolumeGone, Volume: name})
}

// scribble overwrites blocks of a file in place, like a database, every other time with O_DIRECT,
// with or without sync.
func scribble(name string, rng *rand.Rand, blocks int, sync bool) error {
	flags := os.O_RDWR | os.O_CREATE
	if rng.IntN(2) == 0 {
		flags |= syscall.O_DIRECT
	}
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	page, err := unix.Mmap(-1, 0, 32<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(page) }()
	for range blocks {
		b := page[:4096<<rng.IntN(4)]
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if _, err := f.WriteAt(b, int64(rng.IntN(512))*4096); err != nil {
			return err
		}
	}
	if sync {
		return unix.Fdatasync(int(f.Fd()))
	}
	return nil
}

// loadRecording loads a recording that was kept.
func loadRecording(t *testing.T, dir string) *recording {
	t.Helper()
	rec := &recording{}
	b, err := os.ReadFile(filepath.Join(dir, "facts.json"))
	if err == nil {
		err = json.Unmarshal(b, rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	rec.dir = dir
	return rec
}

// read reads the logs.
func (rec *recording) read(t *testing.T) {
	t.Helper()
	rec.marks = make([]int, len(rec.Facts))
	var all map[int]int
	rec.log, all = readLog(t, filepath.Join(rec.dir, "disk.log"))
	for i := range rec.Facts {
		at, ok := all[i]
		if !ok {
			t.Fatalf("fact %d is not in the log of the disk", i)
		}
		rec.marks[i] = at
	}
	for _, u := range rec.Uppers {
		l, marks := readLog(t, filepath.Join(rec.dir, u.Volume+".log"))
		rec.uppers = append(rec.uppers, upperLog{l, marks})
	}
}

func readLog(t *testing.T, name string) (*logwrites.Log, map[int]int) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	l, err := logwrites.Read(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	marks := map[int]int{}
	for i := range l.Entries {
		if n, err := strconv.Atoi(l.Entries[i].Mark); err == nil {
			marks[n] = i
		}
	}
	return l, marks
}
