//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"varve/integration/facts"
	"varve/integration/logwrites"
	"varve/objstore"
)

// fileDisk is a disk in a file.
type fileDisk struct{ *os.File }

// Zero implements [logwrites.Disk].
func (d fileDisk) Zero(off, length int64) error {
	return unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// checker brings disks up and checks what is on them.
type checker struct {
	ctx  context.Context
	t    *testing.T
	rec  *recording
	disk fileDisk // to which the log has been replayed so far

	seed      maphash.Seed
	sectors   []sectorHistory
	contentOf map[string][32]byte // of a root, once seen

	// What was checked.
	volumes, filesystems, files, roots, contents, devices, unflushed int
}

// sectorHistory is the history of each sector of a volume. A value is a hash of 512 bytes, or 0 for
// zeroes.
type sectorHistory struct {
	durable []uint64 // at the entry at of the volume's log
	at      int
	later   map[int64][]version // all versions in the log, in order
	got     []uint64
}

type version struct {
	entry int
	hash  uint64
}

var zeroes [logwrites.SectorSize]byte

func (c *checker) hash(b []byte) uint64 {
	if bytes.Equal(b, zeroes[:]) {
		return 0
	}
	return maphash.Bytes(c.seed, b) | 1
}

func newChecker(ctx context.Context, t *testing.T, rec *recording) *checker {
	t.Helper()
	c := &checker{ctx: ctx, t: t, rec: rec, seed: maphash.MakeSeed(), contentOf: map[string][32]byte{}}
	name := filepath.Join(t.TempDir(), "disk")
	must(ctx, t, "cp", "--sparse=always", filepath.Join(rec.dir, "disk.img"), name)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	c.disk = fileDisk{f}
	for _, u := range rec.uppers {
		h := sectorHistory{durable: make([]uint64, powerVolume/logwrites.SectorSize), later: map[int64][]version{}, got: make([]uint64, powerVolume/logwrites.SectorSize)}
		var buf []byte
		for i := range u.log.Entries {
			b, err := u.log.Data(i, buf)
			if err != nil {
				t.Fatal(err)
			}
			if b != nil {
				buf = b
			}
			e := &u.log.Entries[i]
			for o := int64(0); e.Changes() && o < e.Len; o += logwrites.SectorSize {
				v := version{entry: i}
				if b != nil {
					v.hash = c.hash(b[o : o+logwrites.SectorSize])
				}
				s := (e.Off + o) / logwrites.SectorSize
				h.later[s] = append(h.later[s], v)
			}
		}
		c.sectors = append(c.sectors, h)
	}
	// What the volumes held when their logs began.
	up := c.bringUp("the disk before the log")
	for i, u := range rec.Uppers {
		c.readVolume(up.store, u.Volume, &c.sectors[i], "")
		copy(c.sectors[i].durable, c.sectors[i].got)
	}
	up.down()
	if t.Failed() {
		t.FailNow()
	}
	return c
}

// up is a disk that was brought up.
type up struct {
	c     *checker
	what  string
	loop  string
	dir   string
	store *objstore.Store
	log   bytes.Buffer
}

// bringUp copies the disk as a cut has left it, and opens the copy's store. fix may change the copy
// first.
func (c *checker) bringUp(what string, fix ...func(d fileDisk) error) *up {
	c.t.Helper()
	image := filepath.Join(c.t.TempDir(), "cut")
	f, err := os.OpenFile(image, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = copySparse(f, c.disk.File)
	}
	for _, fn := range fix {
		if err == nil {
			err = fn(fileDisk{f})
		}
	}
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
	_ = f.Close()
	u := &up{c: c, what: what, dir: c.t.TempDir()}
	u.loop = must(c.ctx, c.t, "losetup", "-f", "--show", image)
	_ = os.Remove(image) // the file exists as long as the loop device
	c.t.Cleanup(func() { // of a check that failed
		if u.loop != "" {
			u.close()
			_ = unix.Unmount(u.dir, unix.MNT_DETACH)
			run(context.Background(), "losetup", "-d", u.loop)
		}
	})
	if r := run(c.ctx, "mount", u.loop, u.dir); r.code != 0 {
		c.t.Fatalf("%s: mount the store's filesystem: %s", what, r.stderr)
	}
	u.open()
	return u
}

// open opens the store as after a reboot.
func (u *up) open() {
	u.c.t.Helper()
	var err error
	u.store, err = objstore.Open(u.c.ctx, filepath.Join(u.dir, "store"), objstore.Options{
		Boot: "another", SettleDelay: -1, Logger: slog.New(slog.NewTextHandler(&u.log, nil)),
	})
	if err != nil {
		u.c.t.Fatalf("%s: %v\n%s", u.what, err, u.log.String())
	}
}

func (u *up) close() {
	u.c.t.Helper()
	if u.store == nil {
		return
	}
	if err := u.store.Close(); err != nil {
		u.c.t.Errorf("%s: close the store: %v", u.what, err)
	}
	u.store = nil
}

func (u *up) down() {
	u.c.t.Helper()
	u.close()
	unmount(u.c.ctx, u.c.t, u.dir)
	must(u.c.ctx, u.c.t, "losetup", "-d", u.loop)
	u.loop = ""
}

// copySparse copies the data of a file, and keeps its holes.
func copySparse(to, from *os.File) error {
	size, err := from.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if err := to.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		at, err = unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(from.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at < end {
			n, err := from.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
			if n == 0 {
				return err
			}
			if _, err := to.WriteAt(buf[:n], at); err != nil {
				return err
			}
			at += int64(n)
		}
	}
}

// readVolume reads a whole volume: hashes of its sectors into h.got, and its data into the file
// image unless empty.
func (c *checker) readVolume(s *objstore.Store, volume string, h *sectorHistory, image string) {
	c.t.Helper()
	v, err := s.OpenVolume(volume, "test")
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = v.Close() }()
	var f *os.File
	if image != "" {
		if f, err = os.Create(image); err == nil {
			err = f.Truncate(v.Size())
		}
		if err != nil {
			c.t.Fatal(err)
		}
		defer f.Close()
	}
	clear(h.got)
	err = readData(c.ctx, v, func(off int64, b []byte) error {
		for o := 0; o < len(b); o += logwrites.SectorSize {
			h.got[(off+int64(o))/logwrites.SectorSize] = c.hash(b[o : o+logwrites.SectorSize])
		}
		if f == nil {
			return nil
		}
		_, err := f.WriteAt(b, off)
		return err
	})
	if err != nil {
		c.t.Fatalf("read volume %s: %v", volume, err)
	}
}

// readData reads everything that is not a hole.
func readData(ctx context.Context, im objstore.Image, each func(off int64, b []byte) error) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < im.Size(); {
		hole, n, err := im.Extent(ctx, off)
		if err != nil {
			return err
		}
		for end := off + n; off < end; {
			b := buf[:min(int64(len(buf)), end-off)]
			if !hole {
				if _, err := im.ReadAt(b, off); err != nil {
					return err
				}
				if err := each(off, b); err != nil {
					return err
				}
				off += int64(len(b))
			} else {
				off = end
			}
		}
	}
	return nil
}

// sumOf returns a hash of an image's content, independent of its layout.
func sumOf(ctx context.Context, im objstore.Image) ([32]byte, error) {
	h := sha256.New()
	err := readData(ctx, im, func(off int64, b []byte) error {
		for o := 0; o < len(b); o += 4096 {
			p := b[o:min(o+4096, len(b))]
			if bytes.Count(p, []byte{0}) != len(p) {
				fmt.Fprint(h, off+int64(o))
				_, _ = h.Write(p)
			}
		}
		return nil
	})
	return [32]byte(h.Sum(nil)), err
}

// check brings up the disk that a cut has left, and checks everything that is promised.
func (c *checker) check(what string, cut *logwrites.Cut, number int) {
	c.t.Helper()
	known := 0 // facts
	for known < len(c.rec.marks) && c.rec.marks[known] < cut.Durable {
		known++
	}
	want := facts.Expect(c.rec.Facts[:known])
	u := c.bringUp(what, func(d fileDisk) error { return cut.Apply(c.rec.log, d) })
	defer func() {
		if c.t.Failed() {
			c.t.Logf("%s: the store said:\n%s", what, u.log.String())
		}
	}()
	c.checkNames(u, want)
	looked := number % len(c.rec.Uppers) // the volume whose filesystem is checked
	image := filepath.Join(c.t.TempDir(), "volume")
	for i, up := range c.rec.Uppers {
		h := &c.sectors[i]
		c.advance(h, &c.rec.uppers[i], known)
		file := ""
		if i == looked {
			file = image
		}
		c.readVolume(u.store, up.Volume, h, file)
		c.checkSectors(what, up.Volume, h)
		c.volumes++
	}
	c.checkSnapshots(u, want, number)
	if number%4 == 1 {
		c.checkSettled(u, c.rec.Uppers[1-looked].Volume, &c.sectors[1-looked])
	}
	up := c.rec.Uppers[looked]
	if number%25 == 2 {
		c.devices++
		u.close()
		c.checkThroughDevice(u, up, want)
	} else {
		loop := must(c.ctx, c.t, "losetup", "-f", "--show", image)
		c.checkFilesystem(what, up, loop, want)
		must(c.ctx, c.t, "losetup", "-d", loop)
	}
	_ = os.Remove(image)
	u.down()
}

// advance updates the durable content of a volume to the last flush before the cut.
func (c *checker) advance(h *sectorHistory, u *upperLog, known int) {
	to := h.at
	for n := known - 1; n >= 0; n-- {
		if at, ok := u.marks[n]; ok {
			to = at
			break
		}
	}
	for s, list := range h.later {
		for _, v := range list {
			if v.entry >= h.at && v.entry < to {
				h.durable[s] = v.hash
			}
		}
	}
	h.at = max(h.at, to)
}

// checkSectors compares each sector with its possible contents.
func (c *checker) checkSectors(what, volume string, h *sectorHistory) {
	c.t.Helper()
	bad := 0
sectors:
	for s, got := range h.got {
		if got == h.durable[s] {
			continue
		}
		for _, v := range h.later[int64(s)] {
			if v.entry >= h.at && v.hash == got {
				c.unflushed++
				continue sectors
			}
		}
		if bad++; bad <= 5 {
			old := ""
			for _, v := range h.later[int64(s)] {
				if v.hash == got {
					old = fmt.Sprintf("; it was that at entry %d, before entry %d which was flushed", v.entry, h.at)
				}
			}
			c.t.Errorf("%s: volume %s sector %d is neither what was flushed nor anything written later (zeroes: %v)%s", what, volume, s, got == 0, old)
		}
	}
	if bad > 5 {
		c.t.Errorf("%s: volume %s has %d such sectors", what, volume, bad)
	}
}

// checkNames checks that the volumes exist, and no deleted ones.
func (c *checker) checkNames(u *up, want *facts.Expected) {
	c.t.Helper()
	there := map[string]objstore.VolumeInfo{}
	for _, v := range u.store.Volumes() {
		there[v.Name] = v
		if want.Gone[facts.ID{Volume: v.Name}] {
			c.t.Errorf("%s: volume %s was deleted and is there again", u.what, v.Name)
		}
	}
	for _, up := range c.rec.Uppers {
		if there[up.Volume].Size != powerVolume {
			c.t.Fatalf("%s: volume %s is not there", u.what, up.Volume)
		}
	}
	for name, f := range want.Volumes {
		if there[name].Size != int64(f.Size) {
			c.t.Errorf("%s: volume %s is not there", u.what, name)
		}
	}
}

// checkSnapshots checks all acknowledged snapshots by their roots, and some by content.
func (c *checker) checkSnapshots(u *up, want *facts.Expected, number int) {
	c.t.Helper()
	list, err := u.store.Snapshots("")
	if err != nil {
		c.t.Fatalf("%s: %v", u.what, err)
	}
	there := map[facts.ID]string{}
	for i, s := range list {
		id := facts.ID{Volume: s.Volume, Name: s.Name}
		there[id] = s.Root
		if want.Gone[id] {
			c.t.Errorf("%s: snapshot %s@%s was deleted and is there again", u.what, s.Volume, s.Name)
		}
		if i%3 == number%3 {
			c.checkContent(u, s)
		}
	}
	for id, f := range want.Snapshots {
		root, ok := there[id]
		if !ok || root != f.Root {
			c.t.Errorf("%s: snapshot %s@%s has root %q, and had %s when it was made (there: %v)", u.what, id.Volume, id.Name, root, f.Root, ok)
		}
		c.roots++
	}
}

// checkContent reads a snapshot: equal roots must have equal content, on all disks.
func (c *checker) checkContent(u *up, s objstore.SnapshotInfo) {
	c.t.Helper()
	view, err := u.store.OpenSnapshot(s.Volume, s.Name)
	if err != nil {
		c.t.Errorf("%s: %v", u.what, err)
		return
	}
	defer func() { _ = view.Close() }()
	sum, err := sumOf(c.ctx, view)
	if err != nil {
		c.t.Errorf("%s: read snapshot %s@%s: %v", u.what, s.Volume, s.Name, err)
		return
	}
	if s.Root == "" {
		return
	}
	if old, ok := c.contentOf[s.Root]; ok && old != sum {
		c.t.Errorf("%s: snapshot %s@%s with root %s has another content than the same root had before", u.what, s.Volume, s.Name, s.Root)
	}
	c.contentOf[s.Root] = sum
	c.contents++
}

// checkSettled lets everything that was recovered settle, and opens the store again: the volume
// must read the same.
func (c *checker) checkSettled(u *up, volume string, h *sectorHistory) {
	c.t.Helper()
	before := bytes.Buffer{}
	same := func(when string) {
		c.t.Helper()
		c.readVolume(u.store, volume, h, "")
		var now bytes.Buffer
		for _, x := range h.got {
			fmt.Fprintf(&now, "%x,", x)
		}
		if before.Len() > 0 && !bytes.Equal(before.Bytes(), now.Bytes()) {
			c.t.Errorf("%s: volume %s reads differently %s", u.what, volume, when)
		}
		before = now
	}
	same("")
	if err := u.store.Settle(c.ctx); err != nil {
		c.t.Errorf("%s: settle: %v", u.what, err)
		return
	}
	same("after it has settled")
	u.close()
	u.open()
	same("after it has settled and was opened again")
}

// checkFilesystem mounts a volume's filesystem, which replays its journal, checks its files, and
// runs fsck.
func (c *checker) checkFilesystem(what string, up upper, dev string, want *facts.Expected) {
	c.t.Helper()
	dir := c.t.TempDir()
	if r := run(c.ctx, "mount", dev, dir); r.code != 0 {
		c.t.Errorf("%s: mount %s of volume %s: %s\n%s", what, up.FS, up.Volume, r.stderr, run(c.ctx, "dmesg").stdout)
		return
	}
	for id, f := range want.Files {
		if id.Volume != up.Volume {
			continue
		}
		c.files++
		b, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			c.t.Errorf("%s: volume %s: %v, and its fsync had returned", what, up.Volume, err)
		} else if !bytes.Equal(b, f.Content()) {
			c.t.Errorf("%s: volume %s: file %s has another content than when its fsync returned", what, up.Volume, f.Name)
		}
	}
	unmount(c.ctx, c.t, dir)
	f := fsNamed(up.FS)
	if r := run(c.ctx, f.check[0], append(f.check[1:len(f.check):len(f.check)], dev)...); r.code != 0 {
		c.t.Errorf("%s: %s on volume %s: exit status %d\n%s%s", what, f.check[0], up.Volume, r.code, r.stdout, r.stderr)
	}
	c.filesystems++
}

// checkThroughDevice is checkFilesystem on a device of a daemon.
func (c *checker) checkThroughDevice(u *up, up upper, want *facts.Expected) {
	c.t.Helper()
	n := &node{t: c.t, store: filepath.Join(u.dir, "store"), logs: filepath.Join(c.t.TempDir(), "daemon.log")}
	n.serve(c.ctx)
	c.checkFilesystem(u.what+", on a device", up, n.attach(c.ctx, up.Volume), want)
	n.varve(c.ctx, "detach", up.Volume)
	n.stop(c.ctx)
}
