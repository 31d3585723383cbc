//go:build integration

package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"varve/objstore"
)

// TestDiffMakesTheNextImage compares snapshots that were taken under load, by the command and by the
// mount, and writes what differs over a copy of the earlier one: it becomes the later one. The last
// step is to the device's volume as it is, which has not settled.
func TestDiffMakesTheNextImage(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "128M", "--queues", "2")
	dir := n.fuse(ctx)
	job := start(t, "fio", fioVerify(dev, "--rw=randwrite", "--bsrange=4k-256k", "--size=128M", "--iodepth=16", "--loops=10",
		"--rate=60m")...)
	var names []string
	for i := range 4 {
		before := sectorsWritten(t, dev)
		eventually(t, time.Minute, "fio writes", func() bool { return sectorsWritten(t, dev) > before })
		time.Sleep(700 * time.Millisecond)
		name := fmt.Sprint("s", i)
		n.varve(ctx, "snapshot", "create", "disk@"+name)
		names = append(names, "disk@"+name)
	}
	parseFio(t, job.wait(ctx, t))
	must(ctx, t, "blkdiscard", "--offset", "1M", "--length", "16M", dev)
	names = append(names, "disk")

	copied := filepath.Join(t.TempDir(), "copy")
	must(ctx, t, "cp", "--sparse=always", image(dir, "disk", "s0"), copied)
	for i := 1; i < len(names); i++ {
		from, to := names[i-1], names[i]
		text := n.varve(ctx, "snapshot", "diff", from, to, "--json")
		read, err := os.ReadFile(filepath.Join(dir, "diff", from+".."+to))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(read)) != strings.TrimSpace(text) {
			t.Errorf("%s..%s: the mount has other changes than the command", from, to)
		}
		source := image(dir, "disk", strings.TrimPrefix(to, "disk@"))
		if to == "disk" {
			source = dev
		}
		ranges, zero := writeChanges(t, copied, source, text)
		t.Logf("%s..%s: %d ranges, %d bytes of zeroes", from, to, ranges, zero)
		if ranges == 0 || to == "disk" && zero == 0 {
			t.Errorf("%s..%s: %d ranges, %d bytes of zeroes", from, to, ranges, zero)
		}
		if a, b := sum(t, copied), sum(t, source); a != b {
			t.Fatalf("what differs from %s does not make %s of it", from, to)
		}
	}
	n.varve(ctx, "umount", dir)
	n.varve(ctx, "detach", "disk")
}

// sectorsWritten returns how many sectors were written to a device.
func sectorsWritten(t *testing.T, dev string) (n uint64) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(dev), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err = strconv.ParseUint(strings.Fields(string(b))[6], 10, 64); err != nil {
		t.Fatal(err)
	}
	return n
}

// writeChanges writes the changed ranges of an image over a file.
func writeChanges(t *testing.T, path, image, diff string) (ranges int, zero int64) {
	t.Helper()
	src, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	lines := bufio.NewScanner(strings.NewReader(diff))
	for lines.Scan() {
		var c objstore.Change
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if c.Len == 0 { // the first line, or the last
			continue
		}
		b := make([]byte, c.Len)
		if c.Zero {
			zero += c.Len
		} else if _, err := src.ReadAt(b, c.Off); err != nil {
			t.Fatal(err)
		}
		if _, err := dst.WriteAt(b, c.Off); err != nil {
			t.Fatal(err)
		}
		ranges++
	}
	return ranges, zero
}
