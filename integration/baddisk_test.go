//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// badDisk is a disk under a store's filesystem that can be made to fail: a device mapper device
// over a loop device on tmpfs.
type badDisk struct {
	t       *testing.T
	name    string // for device mapper
	below   string // the loop device
	node    string // /dev/dm-N
	sectors int64
	lower   filesystem
	on      *mounted
}

const badDiskSize = 640 << 20

// newBadDisk creates a disk and a filesystem on it. table is the device mapper table, with %d for
// the number of sectors and %s for the device below.
func newBadDisk(ctx context.Context, t *testing.T, lower, table string) *badDisk {
	t.Helper()
	img := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, badDiskSize); err != nil {
		t.Fatal(err)
	}
	d := &badDisk{t: t, name: "bad-disk", below: losetup(ctx, t, img), sectors: badDiskSize / 512, lower: fsNamed(lower)}
	must(ctx, t, "dmsetup", "create", d.name, "--noudevsync", "--table", fmt.Sprintf(table, d.sectors, d.below))
	t.Cleanup(func() { run(context.Background(), "dmsetup", "remove", "--force", "--noudevsync", d.name) })
	d.node = "/dev/dm-" + must(ctx, t, "dmsetup", "info", "-c", "--noheadings", "-o", "minor", d.name)
	d.lower.make(ctx, t, d.node)
	d.on = mount(ctx, t, d.node, "")
	return d
}

// become replaces the table at once, without freezing or flushing first.
func (d *badDisk) become(ctx context.Context, table string) {
	d.t.Helper()
	must(ctx, d.t, "dmsetup", "load", d.name, "--table", fmt.Sprintf(table, d.sectors, d.below))
	must(ctx, d.t, "dmsetup", "suspend", "--noflush", "--nolockfs", "--noudevsync", d.name)
	must(ctx, d.t, "dmsetup", "resume", "--noudevsync", d.name)
}

// The tables.
const (
	diskWell        = "0 %d linear %s 0"
	diskErrorWrites = "0 %d flakey %s 0 0 3600 1 error_writes"
	diskDropWrites  = "0 %d flakey %s 0 0 3600 1 drop_writes"
	diskErrorReads  = "0 %d flakey %s 0 0 3600 1 error_reads"
	diskDust        = "0 %d dust %s 0 512"
)

// unmount unmounts the filesystem, even if its disk fails.
func (d *badDisk) unmount(ctx context.Context) {
	d.t.Helper()
	var r result
	eventually(d.t, 30*time.Second, "the store's filesystem can be unmounted", func() bool {
		r = run(ctx, "umount", d.on.dir)
		return r.code == 0 || strings.Contains(r.stderr, "not mounted")
	})
}

// remount mounts a filesystem again after its disk has failed.
func (d *badDisk) remount(ctx context.Context) {
	d.t.Helper()
	if d.lower.name == "ext4" {
		if r := run(ctx, "e2fsck", "-fy", d.node); r.code&^3 != 0 {
			d.t.Fatalf("e2fsck: %d\n%s%s", r.code, r.stdout, r.stderr)
		}
	}
	must(ctx, d.t, "mount", d.node, d.on.dir)
}

// blockWriter writes blocks to a device and knows what each may hold.
type blockWriter struct {
	t       *testing.T
	dev     string
	f       *os.File
	buf     []byte
	rng     *rand.Rand
	seq     uint64
	durable map[int]uint64   // what a block held at the last flush that succeeded
	later   map[int][]uint64 // what was written since
	failed  map[int][]uint64 // writes that failed, and may or may not be there
	before  map[int]uint64   // durable, at an earlier moment
	since   map[int][]uint64 // what was written after it
	counts  map[string]int
}

const (
	writerBlock  = 16 << 10
	writerBlocks = 1024
)

func newBlockWriter(t *testing.T, dev string) *blockWriter {
	return &blockWriter{
		t: t, dev: dev, f: openDirect(t, dev, os.O_RDWR), buf: aligned(t, writerBlock), rng: rand.New(rand.NewPCG(7, 7)),
		durable: map[int]uint64{}, later: map[int][]uint64{}, since: map[int][]uint64{}, failed: map[int][]uint64{}, counts: map[string]int{},
	}
}

// content returns the content of write number seq. All sectors differ.
func (w *blockWriter) content(p []byte, seq uint64) {
	clear(p)
	if seq == 0 {
		return
	}
	r := rand.New(rand.NewPCG(seq, 1))
	for i := 0; i < len(p); i += 8 {
		for j, v := 0, r.Uint64(); j < 8; j++ {
			p[i+j] = byte(v >> (8 * j))
		}
	}
}

func (w *blockWriter) write() error {
	block := w.rng.IntN(writerBlocks)
	w.seq++
	w.content(w.buf, w.seq)
	w.since[block] = append(w.since[block], w.seq)
	_, err := w.f.WriteAt(w.buf, int64(block)*writerBlock)
	if w.count("writes", err); err != nil {
		w.failed[block] = append(w.failed[block], w.seq)
	} else {
		w.later[block] = append(w.later[block], w.seq)
	}
	return err
}

func (w *blockWriter) flush() error {
	err := w.f.Sync()
	if w.count("flushes", err); err == nil {
		for b, l := range w.later {
			w.durable[b] = l[len(l)-1]
		}
		clear(w.later)
	}
	return err
}

func (w *blockWriter) count(what string, err error) {
	if err != nil {
		what = "failed " + what
	}
	w.counts[what]++
}

// check reads every block: each sector must hold what was durable, or a later write.
func (w *blockWriter) check(when string, f *os.File) {
	w.t.Helper()
	for b := range writerBlocks {
		w.checkBlock(when, f, b)
	}
}

func (w *blockWriter) checkBlock(when string, f *os.File, b int) {
	w.t.Helper()
	if _, err := f.ReadAt(w.buf, int64(b)*writerBlock); err != nil {
		w.t.Fatalf("%s: read block %d: %v", when, b, err)
	}
	want := make([]byte, writerBlock)
	for s := 0; s < writerBlock; s += 512 {
		ok := false
		for _, seq := range slices.Concat([]uint64{w.durable[b]}, w.later[b], w.failed[b]) {
			w.content(want, seq)
			ok = ok || bytes.Equal(want[s:s+512], w.buf[s:s+512])
		}
		if !ok {
			w.t.Fatalf("%s: block %d, byte %d: neither write %d, which was durable, nor any of %v", when, b, s, w.durable[b], w.later[b])
		}
	}
}

// A disk fails or silently drops writes while a store is written to. No flush succeeds that did not
// make writes durable, the store reports that it is read-only and why, and when the disk works
// again, everything that was flushed is there.
func TestDiskFailsWrites(t *testing.T) {
	rounds := crashNumber(t, "VARVE_CRASH_BAD_DISKS", 1)
	for _, lower := range []string{"ext4", "xfs"} {
		for what, table := range map[string]string{"errors": diskErrorWrites, "drops": diskDropWrites} {
			for round := range rounds {
				t.Run(fmt.Sprintf("%s/%s/%d", lower, what, round), func(t *testing.T) {
					diskFailsWrites(limit(t, 3*time.Minute), t, lower, table, round)
				})
			}
		}
	}
}

func diskFailsWrites(ctx context.Context, t *testing.T, lower, table string, round int) {
	d := newBadDisk(ctx, t, lower, diskWell)
	n := newNodeAt(ctx, t, filepath.Join(d.on.dir, "store"))
	n.serve(ctx)
	w := newBlockWriter(t, n.volume(ctx, "disk", "64M"))
	w.rng = rand.New(rand.NewPCG(uint64(round), 3))
	some := func(writes, every int) {
		for i := range writes {
			if err := w.write(); err != nil {
				t.Fatalf("write on a disk that is well: %v", err)
			}
			if i%every == every-1 || i == writes-1 {
				if err := w.flush(); err != nil {
					t.Fatalf("flush on a disk that is well: %v", err)
				}
			}
		}
	}
	some(200, 50)
	n.snapshot(ctx, "disk@good")
	some(50+w.rng.IntN(100), 7)
	for range 10 { // answered, and not flushed: the flush that comes has to fail
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	w.before, w.since = maps.Clone(w.durable), maps.Clone(w.later)
	d.become(ctx, table)
	for range 120 {
		_ = w.write()
		if w.rng.IntN(4) == 0 && w.flush() != nil {
			break
		}
	}
	if table == diskErrorWrites {
		if w.counts["failed flushes"] == 0 {
			t.Errorf("no flush failed on a disk that takes no writes: %v", w.counts)
		}
		for range 3 {
			if w.flush() == nil {
				t.Error("a flush succeeds after one has failed: what that one should have written is forgotten")
			}
		}
		if w.write() == nil {
			t.Error("a store that could not flush takes writes")
		}
		if lower != "xfs" { // which shuts itself down
			w.check("on a disk that takes no writes", w.f)
		}
		st := query[objstore.Stat](ctx, n, "stat")
		if st.ReadOnly == "" || !strings.Contains(n.logTail(), "the store is read-only from now on") {
			t.Errorf("stat says read-only %q, and the log:\n%s", st.ReadOnly, n.logTail())
		}
		t.Logf("stat: read-only: %s", st.ReadOnly)
	}
	n.kill(ctx)
	if table == diskErrorWrites {
		d.become(ctx, diskWell)
		d.unmount(ctx)
		d.remount(ctx)
	} else { // a disk that loses all writes from one moment on is a power cut at that moment, if nothing follows
		w.lied()
		d.unmount(ctx)
		d.become(ctx, diskWell)
		d.remount(ctx)
	}
	_ = w.f.Close()
	n.serve(ctx)
	dev := n.attachAgain(ctx, "disk")
	w.check("with the disk well again", openDirect(t, dev, os.O_RDONLY))
	if r := n.try(ctx, "check"); r.code != 0 {
		t.Errorf("check: %s%s", r.stdout, r.stderr)
	}
	n.stop(ctx, "--detach")
	d.on.unmount(ctx)
	t.Logf("%v", w.counts)
	t.Logf("crash: %d requests that a disk has failed", w.counts["failed writes"]+w.counts["failed flushes"])
}

// fill writes n times, and flushes.
func (w *blockWriter) fill(n int) {
	w.t.Helper()
	for range n {
		if err := w.write(); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil {
		w.t.Fatal(err)
	}
}

// lied reverts to the state in before, as the disk has acknowledged writes since then that it lost.
func (w *blockWriter) lied() { w.durable, w.later = w.before, w.since }

// A disk fails reads: readers get the error, the daemon survives, and reads succeed again when the
// disk works.
func TestDiskFailsReads(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	d := newBadDisk(ctx, t, "ext4", diskWell)
	n := newNodeAt(ctx, t, filepath.Join(d.on.dir, "store"))
	n.serve(ctx)
	w := newBlockWriter(t, n.volume(ctx, "disk", "64M"))
	w.fill(300)
	n.snapshot(ctx, "disk@settled")
	d.become(ctx, diskErrorReads)
	failed := 0
	for b := range w.durable {
		if _, err := w.f.ReadAt(w.buf, int64(b)*writerBlock); err != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Error("no read failed on a disk that fails them")
	}
	d.become(ctx, diskWell)
	w.check("with the disk well again", w.f)
	if err := w.write(); err != nil {
		t.Errorf("write after failed reads: %v", err)
	}
	if err := w.flush(); err != nil {
		t.Errorf("flush after failed reads: %v", err)
	}
	t.Logf("crash: %d requests that a disk has failed", failed)
	n.stop(ctx, "--detach")
	d.on.unmount(ctx)
}

// spoilSector makes the sector that holds a byte of a file unreadable, and returns the sector's
// number.
func (d *badDisk) spoilSector(ctx context.Context, file string, off int64) string {
	d.t.Helper()
	for line := range strings.Lines(must(ctx, d.t, "filefrag", "-v", "-b512", file)) {
		f := strings.Fields(strings.NewReplacer("..", " ", ":", " ").Replace(line))
		if len(f) < 5 {
			continue
		}
		from, err1 := strconv.ParseInt(f[1], 10, 64)
		to, err2 := strconv.ParseInt(f[2], 10, 64)
		at, err3 := strconv.ParseInt(f[3], 10, 64)
		if err1 == nil && err2 == nil && err3 == nil && off/512 >= from && off/512 <= to {
			sector := strconv.FormatInt(at+off/512-from, 10)
			must(ctx, d.t, "dmsetup", "message", d.name, "0", "addbadblock", sector)
			return sector
		}
	}
	d.t.Fatalf("byte %d of %s lies nowhere", off, file)
	return ""
}

// Bad sectors in a store: in refs, which have a copy; in a chunk, which affects some LBAs; in a
// journal, which affects one volume. Each causes errors only for what it affects, is named by
// check, and has no effect once the sector is readable again.
func TestBadSectors(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	d := newBadDisk(ctx, t, "ext4", diskDust)
	n := newNodeAt(ctx, t, filepath.Join(d.on.dir, "store"))
	n.serve(ctx)
	w := newBlockWriter(t, n.volume(ctx, "disk", "64M"))
	w.fill(400)
	n.snapshot(ctx, "disk@one")
	_ = w.f.Close()
	n.stop(ctx, "--detach")
	must(ctx, t, "dmsetup", "message", d.name, "0", "enable")

	must(ctx, t, "sync")
	dropCaches(t)
	refs := d.spoilSector(ctx, filepath.Join(n.store, "refs/log"), 100)
	n.serve(ctx)
	r := n.check(ctx, 0)
	if len(r.Damage) != 1 || r.Damage[0].File != "refs/log" || !r.Damage[0].Repaired {
		t.Errorf("a bad sector in refs: %+v", r.Damage)
	}
	t.Logf("sector %s in refs: %+v", refs, r.Damage)

	must(ctx, t, "sync")
	dropCaches(t)
	segment, off := largestSegment(t, n.store)
	bad := d.spoilSector(ctx, segment, off)
	r = n.check(ctx, 1)
	failing := map[int64]bool{}
	f := openDirect(t, n.attach(ctx, "disk"), os.O_RDWR)
	for b := range int64(writerBlocks) {
		if _, err := f.ReadAt(w.buf, b*writerBlock); err != nil {
			failing[b*writerBlock] = true
		}
	}
	named := map[int64]bool{}
	for _, dm := range r.Damage {
		for _, a := range dm.Affects {
			for _, x := range a.Ranges {
				if a.Volume == "disk" && a.Snapshot == "" {
					named[x.Off] = true
				}
			}
		}
	}
	if len(failing) == 0 || fmt.Sprint(failing) != fmt.Sprint(named) {
		t.Errorf("sector %s is bad: reads fail at %v, check names %v: %+v", bad, failing, named, r.Damage)
	}
	t.Logf("sector %s under a chunk: %+v", bad, r.Damage)
	must(ctx, t, "dmsetup", "message", d.name, "0", "removebadblock", bad)
	w.check("with the sector good again", f)
	_ = f.Close()
	n.varve(ctx, "detach", "disk")
	d.badJournal(ctx, n)
	n.stop(ctx, "--detach")
	d.on.unmount(ctx)
}

// badJournal tests a bad sector in the journal of one of two volumes.
func (d *badDisk) badJournal(ctx context.Context, n *node) {
	t := d.t
	w := newBlockWriter(t, n.volume(ctx, "tail", "64M"))
	info := query[objstore.VolumeInfo](ctx, n, "volume", "show", "tail")
	for range 20 {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	n.kill(ctx) // before it settles
	_ = w.f.Close()
	journals, err := filepath.Glob(filepath.Join(n.store, "journal", info.ID+"-*"))
	if err != nil || len(journals) != 1 {
		t.Fatalf("journals %v: %v", journals, err)
	}
	id := journals[0]
	must(ctx, t, "sync")
	dropCaches(t)
	sector := d.spoilSector(ctx, id, 4096)
	n.serve(ctx)
	v := query[objstore.VolumeInfo](ctx, n, "volume", "show", "tail")
	if !strings.Contains(v.Damage, filepath.Base(id)) {
		t.Errorf("sector %s of %s is bad, and the volume's damage is %q\n%s", sector, id, v.Damage, n.logTail())
	}
	other := n.attach(ctx, "disk") // the other volume knows nothing of it
	n.varve(ctx, "detach", other)
	n.check(ctx, 1)
	if out := n.varve(ctx, "volume", "repair", "tail"); !strings.Contains(out, "accept-loss") {
		t.Errorf("repair says %q", out)
	}
	must(ctx, t, "dmsetup", "message", d.name, "0", "removebadblock", sector)
	n.try(ctx, "detach", "tail", "--force")
	dev := n.attachAgain(ctx, "tail")
	w.check("with the journal's sector good again", openDirect(t, dev, os.O_RDONLY))
	n.check(ctx, 0)
}

// check runs varve check, which must end with this exit status.
func (n *node) check(ctx context.Context, code int) objstore.CheckReport {
	n.t.Helper()
	r := n.try(ctx, "check", "--json")
	if r.code != code {
		n.t.Errorf("varve check: exit status %d, want %d\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	var report objstore.CheckReport
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		n.t.Fatalf("varve check --json: %v\n%s%s", err, r.stdout, r.stderr)
	}
	return report
}

// largestSegment returns the segment with the most data, and an offset in the middle of it.
func largestSegment(t *testing.T, store string) (string, int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(store, "segments/*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	best, most := "", int64(0)
	for _, f := range files {
		if n := used(t, f); n > most {
			best, most = f, n
		}
	}
	return best, 4096 + most/2/writerBlock*writerBlock
}

// used returns the number of bytes that a file occupies on its disk.
func used(t *testing.T, file string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
