//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// fioVerify are the options of all runs: each block contains its offset, a time and a CRC, and is
// read back.
func fioVerify(dev string, more ...string) []string {
	return append([]string{
		"--name=verify", "--filename=" + dev, "--direct=1", "--ioengine=io_uring", "--output-format=json",
		"--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_dump=0", "--verify_state_save=0",
		"--randrepeat=0", "--refill_buffers", "--group_reporting",
	}, more...)
}

// fioReport is fio's report of a run.
type fioReport struct {
	Jobs []struct {
		Error int
		Read  struct {
			TotalIOs   int64 `json:"total_ios"`
			IOBytes    int64 `json:"io_bytes"`
			ShortIOs   int64 `json:"short_ios"`
			DropIOs    int64 `json:"drop_ios"`
			RuntimeMS  int64 `json:"runtime"`
			BandwidthK int64 `json:"bw"`
		} `json:"read"`
		Write struct {
			TotalIOs int64 `json:"total_ios"`
			IOBytes  int64 `json:"io_bytes"`
			ShortIOs int64 `json:"short_ios"`
		} `json:"write"`
		Trim struct {
			TotalIOs int64 `json:"total_ios"`
			IOBytes  int64 `json:"io_bytes"`
		} `json:"trim"`
	}
}

func parseFio(t *testing.T, out string) fioReport {
	t.Helper()
	var r fioReport
	_, body, _ := strings.Cut(out, "{") // warnings may come first
	if err := json.NewDecoder(strings.NewReader("{" + body)).Decode(&r); err != nil {
		t.Fatalf("fio's report: %v\n%s", err, out)
	}
	for _, j := range r.Jobs {
		if j.Error != 0 || j.Read.ShortIOs != 0 || j.Write.ShortIOs != 0 {
			t.Fatalf("fio: error %d, short reads %d, short writes %d", j.Error, j.Read.ShortIOs, j.Write.ShortIOs)
		}
	}
	return r
}

// fio runs fio to its end, and checks that it has read back at least half of what it wrote.
func fio(ctx context.Context, t *testing.T, args []string) fioReport {
	t.Helper()
	r := parseFio(t, must(ctx, t, "fio", args...))
	for _, j := range r.Jobs {
		t.Logf("fio: %d writes of %d MiB, %d reads of %d MiB, %d trims of %d MiB", j.Write.TotalIOs, j.Write.IOBytes>>20,
			j.Read.TotalIOs, j.Read.IOBytes>>20, j.Trim.TotalIOs, j.Trim.IOBytes>>20)
		if j.Write.TotalIOs == 0 || j.Read.IOBytes < j.Write.IOBytes/2 {
			t.Fatalf("fio verified little: %d bytes written, %d read", j.Write.IOBytes, j.Read.IOBytes)
		}
	}
	return r
}

func TestFioVerify(t *testing.T) {
	for _, c := range []struct {
		mode          string
		queues, depth int
		size          string
	}{
		{"auto", 1, 1, "64M"},
		{"auto", 1, 8, "192M"},
		{"auto", 1, 64, "256M"},
		{"auto", 2, 1, "64M"},
		{"auto", 2, 16, "192M"},
		{"auto", 2, 64, "256M"},
		{"zero", 2, 32, "192M"},
		{"user", 2, 32, "192M"},
		{"plain", 2, 32, "192M"},
	} {
		t.Run(fmt.Sprintf("mode=%s/queues=%d/depth=%d", c.mode, c.queues, c.depth), func(t *testing.T) {
			ctx := limit(t, 3*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			dev := n.volume(ctx, "disk", "1G", "--copy-mode", c.mode, "--queues", fmt.Sprint(c.queues))
			fio(ctx, t, fioVerify(dev, "--rw=randwrite", "--bsrange=512-1M", "--size="+c.size,
				fmt.Sprintf("--iodepth=%d", c.depth)))
			// Again over the same blocks, so that every write is an overwrite, mixed with reads.
			fio(ctx, t, fioVerify(dev, "--rw=randwrite", "--bsrange=512-64k", "--size=64M", "--offset=32M",
				fmt.Sprintf("--iodepth=%d", c.depth), "--fsync=97"))
			n.varve(ctx, "detach", "disk")
		})
	}
}

// TestFioVerifyBlockSize4096 tests a device with logical blocks of 4096 bytes.
func TestFioVerifyBlockSize4096(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	n.varve(ctx, "volume", "create", "disk", "--size", "1G", "--block-size", "4096")
	dev := n.attach(ctx, "disk")
	if got := must(ctx, t, "blockdev", "--getss", dev); got != "4096" {
		t.Errorf("logical block size %s, want 4096", got)
	}
	fio(ctx, t, fioVerify(dev, "--rw=randwrite", "--bsrange=4k-1M", "--size=192M", "--iodepth=32"))
}

// TestFioVerifyWithDiscards discards each block before writing it, in parallel with another job
// that writes and discards at random. The written blocks are verified. (fio 3.33 cannot verify the
// zeroes: its --trim_percentage fails an assertion. TestDeviceModel does.)
func TestFioVerifyWithDiscards(t *testing.T) {
	for _, queues := range []string{"1", "2"} {
		t.Run("queues="+queues, func(t *testing.T) {
			ctx := limit(t, 4*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			dev := n.volume(ctx, "disk", "2G", "--queues", queues)
			mixed := start(t, "fio", "--filename="+dev, "--direct=1", "--ioengine=io_uring", "--iodepth=16", "--bsrange=4k-64k",
				"--offset=1G", "--size=256M", "--time_based", "--runtime=8", "--output-format=json", "--refill_buffers",
				"--name=write", "--rw=randwrite", "--name=trim", "--rw=randtrim")
			r := fio(ctx, t, fioVerify(dev, "--rw=randtrimwrite", "--bs=4k", "--size=64M", "--iodepth=16"))
			if r.Jobs[0].Trim.TotalIOs == 0 {
				t.Error("fio trimmed nothing in the verified job")
			}
			m := parseFio(t, mixed.wait(ctx, t))
			if m.Jobs[0].Write.TotalIOs == 0 || m.Jobs[1].Trim.TotalIOs == 0 {
				t.Error("the jobs beside it did nothing")
			}
			t.Logf("beside it: %d writes, %d trims", m.Jobs[0].Write.TotalIOs, m.Jobs[1].Trim.TotalIOs)
		})
	}
}

// TestDiscardFreesAndReadsZero trims a whole volume: no data byte is left in its map, and it reads
// as zeroes.
func TestDiscardFreesAndReadsZero(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "128M")
	zeroes := sum(t, dev)
	empty := n.snapshot(ctx, "disk@empty")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=64", "oflag=direct", "status=none")
	if full := n.snapshot(ctx, "disk@full"); full == empty {
		t.Fatal("the root of a written volume equals that of an empty one")
	}
	must(ctx, t, "blkdiscard", dev)
	if got := sum(t, dev); got != zeroes {
		t.Error("a discarded volume does not read as zeroes")
	}
	if got := n.snapshot(ctx, "disk@discarded"); got != empty {
		t.Errorf("root after discarding %s, of the empty volume %s", got, empty)
	}
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=64", "oflag=direct", "status=none")
	must(ctx, t, "blkdiscard", "--zeroout", dev)
	if got := n.snapshot(ctx, "disk@zeroed"); got != empty {
		t.Errorf("root after writing zeroes %s, of the empty volume %s", got, empty)
	}
}
