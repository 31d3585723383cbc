//go:build integration

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// image returns the path of a snapshot in the mount.
func image(dir, volume, snap string) string {
	return filepath.Join(dir, "snapshots", volume, snap, "disk.img")
}

// TestSnapshotUnderFio takes snapshots while fio overwrites the volume: their content never
// changes.
func TestSnapshotUnderFio(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "128M", "--queues", "2")
	dir := n.fuse(ctx)
	job := start(t, "fio", fioVerify(dev, "--rw=randwrite", "--bsrange=4k-256k", "--size=128M", "--iodepth=16", "--loops=10",
		"--rate=60m")...)
	type frozen struct{ root, sum, copied string }
	var snaps []frozen
	for i := range 5 {
		time.Sleep(700 * time.Millisecond)
		if !job.running() { // on a busy machine fio may end before the fifth
			if i < 2 {
				t.Fatalf("fio ended before snapshot %d: nothing was taken under load\n%s", i, job.out.String())
			}
			break
		}
		name := fmt.Sprint("s", i)
		f := frozen{root: n.snapshot(ctx, "disk@"+name), copied: filepath.Join(t.TempDir(), name)}
		f.sum = sum(t, image(dir, "disk", name))
		must(ctx, t, "cp", "--sparse=always", image(dir, "disk", name), f.copied)
		snaps = append(snaps, f)
		if i > 0 && f.sum == snaps[i-1].sum {
			t.Errorf("snapshots %d and %d are alike: fio wrote nothing between them", i-1, i)
		}
	}
	parseFio(t, job.wait(ctx, t))
	check := func(when string) {
		for i, f := range snaps {
			name := fmt.Sprint("s", i)
			if got := sum(t, image(dir, "disk", name)); got != f.sum {
				t.Errorf("snapshot %s changed %s", name, when)
			}
			if got := sum(t, f.copied); got != f.sum {
				t.Errorf("the copy of snapshot %s differs from it", name)
			}
			if got := sum(t, filepath.Join(dir, "by-id", f.root, "disk.img")); got != f.sum {
				t.Errorf("snapshot %s by its root %s is another image %s", name, f.root, when)
			}
		}
	}
	check("while fio went on")
	n.varve(ctx, "umount", dir)
	n.varve(ctx, "detach", "disk")
	n.stop(ctx)
	n.serve(ctx)
	n.varve(ctx, "mount", dir)
	check("when the daemon was started again")
	n.varve(ctx, "umount", dir)
}

// TestSnapshotUnderMountedFilesystem takes snapshots of a filesystem while files are copied to it.
// A snapshot has what a power cut would leave: after replaying the journal, on a copy, the
// filesystem is clean.
func TestSnapshotUnderMountedFilesystem(t *testing.T) {
	for _, f := range filesystems {
		t.Run(f.name, func(t *testing.T) {
			ctx := limit(t, 5*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			dev := n.volume(ctx, "disk", "640M")
			dir := n.fuse(ctx)
			tree := sourceTree(t)
			f.make(ctx, t, dev)
			m := mount(ctx, t, dev, "")
			must(ctx, t, "cp", "-a", filepath.Join(tree, "net"), filepath.Join(m.dir, "before"))
			// Through an unmount the tree is in its own place on the disk. After a sync it may be
			// in the journal alone, and a mount without replay does not see it.
			m.unmount(ctx)
			m = mount(ctx, t, dev, "")
			job := start(t, "cp", "-a", tree, m.dir)
			sums := map[string]string{}
			for i := range 3 {
				time.Sleep(300 * time.Millisecond)
				if i == 0 && !job.running() {
					t.Fatal("the copy was done before the first snapshot")
				}
				name := fmt.Sprint("s", i)
				n.snapshot(ctx, "disk@"+name)
				sums[name] = sum(t, image(dir, "disk", name))
			}
			job.wait(ctx, t)
			for name, want := range sums {
				checkSnapshot(ctx, t, f, image(dir, "disk", name), want, filepath.Join(tree, "net"))
			}
			m.unmount(ctx)
			f.fsck(ctx, t, dev)
			n.varve(ctx, "umount", dir)
		})
	}
}

// checkSnapshot checks a snapshot's image in the mount: unchanged through a read-only loop device,
// and on a copy with the journal replayed. It must have the tree that was synced before, in
// "before".
func checkSnapshot(ctx context.Context, t *testing.T, f filesystem, img, want, before string) {
	t.Helper()
	if got := sum(t, img); got != want {
		t.Errorf("%s changed", img)
	}
	ro := losetup(ctx, t, img, "-r")
	if got := sum(t, ro); got != want {
		t.Errorf("%s under a loop device differs from itself", img)
	}
	m := mount(ctx, t, ro, f.frozen)
	must(ctx, t, "diff", "-r", before, filepath.Join(m.dir, "before"))
	m.unmount(ctx)
	must(ctx, t, "losetup", "-d", ro)

	copied := filepath.Join(t.TempDir(), "copy.img")
	must(ctx, t, "cp", "--sparse=always", img, copied)
	rw := losetup(ctx, t, copied)
	m = mount(ctx, t, rw, f.copied) // replays the journal
	must(ctx, t, "diff", "-r", before, filepath.Join(m.dir, "before"))
	m.unmount(ctx)
	f.fsck(ctx, t, rw)
	must(ctx, t, "losetup", "-d", rw)
	if err := os.Remove(copied); err != nil {
		t.Error(err)
	}
	if got := sum(t, img); got != want {
		t.Errorf("%s changed while it was looked at", img)
	}
}

// TestSameContentSameRoot writes the same content to two stores, in different orders and request
// sizes, over different garbage: the roots are equal. Changing one bit changes the root.
func TestSameContentSameRoot(t *testing.T) {
	const (
		size  = 96 << 20
		block = 64 << 10
	)
	ctx := limit(t, 3*time.Minute)
	content := make([]byte, size)
	for i := 0; i < size; i += 1 << 20 {
		if i>>20%3 != 2 { // every third MiB stays zero
			random := rand.NewChaCha8([32]byte{byte(i >> 20)})
			_, _ = random.Read(content[i : i+1<<20])
		}
	}
	var roots []string
	for i, seed := range []uint64{1, 2} {
		n := newNode(ctx, t)
		n.serve(ctx)
		dev := n.volume(ctx, "disk", fmt.Sprint(size))
		if i == 1 { // garbage first, and a settled root of it
			must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=96", "oflag=direct", "status=none")
			n.snapshot(ctx, "disk@garbage")
			must(ctx, t, "blkdiscard", "-o", "0", "-l", fmt.Sprint(size/2), dev)
		}
		writeShuffled(t, dev, content, block>>(4*i), seed)
		roots = append(roots, n.snapshot(ctx, "disk@same"))
		if i == 1 {
			writeAt(t, dev, []byte{content[512] ^ 1}, content[513:1024], 512)
			roots = append(roots, n.snapshot(ctx, "disk@other"))
			writeAt(t, dev, content[512:513], content[513:1024], 512)
			roots = append(roots, n.snapshot(ctx, "disk@back"))
		}
	}
	if roots[0] != roots[1] {
		t.Errorf("same content, roots %s and %s", roots[0], roots[1])
	}
	if roots[2] == roots[0] {
		t.Error("other content, same root")
	}
	if roots[3] != roots[0] {
		t.Errorf("content put back, root %s, before %s", roots[3], roots[0])
	}
}

// aligned memory for O_DIRECT.
func aligned(t *testing.T, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

func openDirect(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// writeShuffled writes all of content to dev in blocks, in random order.
func writeShuffled(t *testing.T, dev string, content []byte, block int, seed uint64) {
	t.Helper()
	f := openDirect(t, dev, os.O_WRONLY)
	buf := aligned(t, block)
	for _, i := range rand.New(rand.NewPCG(seed, seed)).Perm(len(content) / block) {
		copy(buf, content[i*block:])
		if _, err := f.WriteAt(buf, int64(i*block)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// writeAt writes one sector made of two parts.
func writeAt(t *testing.T, dev string, head, rest []byte, off int64) {
	t.Helper()
	f := openDirect(t, dev, os.O_WRONLY)
	buf := aligned(t, len(head)+len(rest))
	copy(buf, head)
	copy(buf[len(head):], rest)
	if _, err := f.WriteAt(buf, off); err != nil {
		t.Fatal(err)
	}
}

// TestSnapshotImageIsSparse checks du, cp --sparse and SEEK_HOLE.
func TestSnapshotImageIsSparse(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "512M")
	dir := n.fuse(ctx)
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=8", "seek=100", "oflag=direct", "status=none")
	n.snapshot(ctx, "disk@one")
	for _, path := range []string{image(dir, "disk", "one"), filepath.Join(dir, "volumes", "disk", "live")} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Size != 512<<20 {
			t.Errorf("%s: size %d", path, st.Size)
		}
		if used := st.Blocks * 512; used < 8<<20 || used > 9<<20 {
			t.Errorf("%s: %d bytes in use, 8 MiB were written", path, used)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if off, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); err != nil || off != 100<<20 {
			t.Errorf("%s: SEEK_DATA from 0 gives %d (%v), want %d", path, off, err, 100<<20)
		}
		if off, err := unix.Seek(int(f.Fd()), 100<<20, unix.SEEK_HOLE); err != nil || off != 108<<20 {
			t.Errorf("%s: SEEK_HOLE from the data gives %d (%v), want %d", path, off, err, 108<<20)
		}
		_ = f.Close()
		if f, err := os.OpenFile(image(dir, "disk", "one"), os.O_RDWR, 0); err == nil {
			t.Error("a snapshot's image can be opened for writing")
			_ = f.Close()
		}
	}
	copied := filepath.Join(t.TempDir(), "copy")
	must(ctx, t, "cp", "--sparse=auto", image(dir, "disk", "one"), copied)
	var st unix.Stat_t
	if err := unix.Stat(copied, &st); err != nil || st.Blocks*512 > 9<<20 {
		t.Errorf("the copy takes %d bytes (%v): cp did not see the holes", st.Blocks*512, err)
	}
	n.varve(ctx, "umount", dir)
}
