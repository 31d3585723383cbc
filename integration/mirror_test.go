//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mirrorLeg is a leg of a mirror: a device mapper device over a loop device on tmpfs.
type mirrorLeg struct {
	name, below, node string
}

const (
	mirrorSize    = 32 << 20            // of the disk
	mirrorLegSize = mirrorSize + 1<<20  // with what a leg knows of its set
	mirrorSectors = mirrorLegSize / 512 // of a leg
)

func newMirrorLeg(ctx context.Context, t *testing.T, name string) *mirrorLeg {
	t.Helper()
	img := filepath.Join(t.TempDir(), "leg.img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, mirrorLegSize); err != nil {
		t.Fatal(err)
	}
	l := &mirrorLeg{name: name, below: losetup(ctx, t, img)}
	must(ctx, t, "dmsetup", "create", name, "--noudevsync", "--table", fmt.Sprintf(diskWell, mirrorSectors, l.below))
	t.Cleanup(func() { run(context.Background(), "dmsetup", "remove", "--force", "--noudevsync", name) })
	l.node = "/dev/dm-" + must(ctx, t, "dmsetup", "info", "-c", "--noheadings", "-o", "minor", name)
	return l
}

// become replaces the table at once. What is in flight has ended.
func (l *mirrorLeg) become(ctx context.Context, t *testing.T, table string) {
	t.Helper()
	must(ctx, t, "dmsetup", "load", l.name, "--table", fmt.Sprintf(table, mirrorSectors, l.below))
	must(ctx, t, "dmsetup", "suspend", "--noflush", "--nolockfs", "--noudevsync", l.name)
	must(ctx, t, "dmsetup", "resume", "--noudevsync", l.name)
}

// mirrored is a mirror of two legs, served by a process of its own.
type mirrored struct {
	t    *testing.T
	legs [2]*mirrorLeg
	dev  string
}

func newMirrored(ctx context.Context, t *testing.T) *mirrored {
	t.Helper()
	m := &mirrored{t: t, legs: [2]*mirrorLeg{newMirrorLeg(ctx, t, "leg-a"), newMirrorLeg(ctx, t, "leg-b")}}
	m.dev = must(ctx, t, varve, "ublk", "add", "-t", "mirror", "--background", "--format", "--region-size", "64K",
		"-f", m.legs[0].node, "-f", m.legs[1].node)
	t.Cleanup(func() { run(context.Background(), varve, "ublk", "del", "--force", m.dev) })
	m.await("in-sync", "in-sync")
	return m
}

// listed is what varve ublk list says of the mirror.
type listed struct {
	State  string `json:"state"`
	Server int    `json:"server_pid"`
	Target struct {
		Legs []struct {
			State string `json:"state"`
			Error string `json:"error"`
		} `json:"legs"`
	} `json:"target"`
}

func (m *mirrored) list() (l listed) {
	m.t.Helper()
	out := must(m.t.Context(), m.t, varve, "ublk", "list", "-n", m.id(), "--json")
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		m.t.Fatal(err)
	}
	return l
}

func (m *mirrored) id() string { return strings.TrimPrefix(m.dev, "/dev/ublkb") }

// await waits for states of the legs, as list has them.
func (m *mirrored) await(states ...string) {
	m.t.Helper()
	eventually(m.t, 60*time.Second, "the legs are "+strings.Join(states, " and "), func() bool {
		legs := m.list().Target.Legs
		for i, want := range states {
			if len(legs) != len(states) || legs[i].State != want {
				return false
			}
		}
		return true
	})
}

// kill kills the server and waits until the device waits for another one.
func (m *mirrored) kill() {
	m.t.Helper()
	if err := syscall.Kill(m.list().Server, syscall.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	eventually(m.t, 30*time.Second, "the device waits", func() bool { return m.list().State == "quiesced" })
}

// end removes the device and compares the legs.
func (m *mirrored) end(ctx context.Context) {
	m.t.Helper()
	must(ctx, m.t, varve, "ublk", "del", m.dev)
	var data [2][]byte
	for i, l := range m.legs {
		var b []byte
		eventually(m.t, 10*time.Second, "the leg is free", func() bool { // and all is written
			return run(ctx, "blockdev", "--flushbufs", l.node).code == 0
		})
		b, err := os.ReadFile(l.below)
		if err != nil || len(b) != mirrorLegSize {
			m.t.Fatalf("%s: %d bytes, %v", l.below, len(b), err)
		}
		data[i] = b[1<<20:]
	}
	if !bytes.Equal(data[0], data[1]) {
		m.t.Error("the legs differ")
	}
}

// A leg that fails its writes goes out, which list says, and the filesystem on the mirror does not
// notice; when the leg works again it comes back beside I/O, and has all that was written.
func TestMirrorLegFails(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	m := newMirrored(ctx, t)
	must(ctx, t, "mkfs.ext4", "-q", m.dev)
	on := mount(ctx, t, m.dev, "")
	write := func(name string) {
		t.Helper()
		must(ctx, t, "dd", "if=/dev/urandom", "of="+filepath.Join(on.dir, name), "bs=64k", "count=32", "conv=fsync", "status=none")
	}
	write("before")
	m.legs[0].become(ctx, t, diskErrorWrites)
	write("without")
	m.await("out", "in-sync")
	if e := m.list().Target.Legs[0].Error; !strings.Contains(e, m.legs[0].node) {
		t.Errorf("why the leg is out: %q", e)
	}
	if out := must(ctx, t, varve, "ublk", "list"); !strings.Contains(out, "(leg 0 out)") {
		t.Errorf("list says\n%s", out)
	}
	m.legs[0].become(ctx, t, diskWell)
	adding := start(t, "dd", "if=/dev/urandom", "of="+filepath.Join(on.dir, "beside"), "bs=64k", "count=64", "conv=fsync", "status=none")
	must(ctx, t, varve, "ublk", "add-leg", m.id(), m.legs[0].node)
	<-adding.done
	m.await("in-sync", "in-sync")
	on.unmount(ctx)
	must(ctx, t, "e2fsck", "-fn", m.dev)
	m.end(ctx)
}

// A bad sector of a leg is read from the other leg, and written again.
func TestMirrorBadSector(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	m := newMirrored(ctx, t)
	w := newBlockWriter(t, m.dev)
	w.fill(100)
	for _, l := range m.legs {
		l.become(ctx, t, diskDust)
		for b := range dustBlocks {
			must(ctx, t, "dmsetup", "message", l.name, "0", "addbadblock", strconv.Itoa((1<<20)/512+b*97+int(l.name[4]-'a')*40))
		}
		must(ctx, t, "dmsetup", "message", l.name, "0", "enable")
	}
	eventually(t, 30*time.Second, "all bad sectors are written again", func() bool {
		for b := range 3 * dustBlocks { // those that have the bad sectors, and one more
			w.checkBlock("with bad sectors", w.f, b)
		}
		left := 0
		for _, l := range m.legs {
			if !strings.Contains(must(ctx, t, "dmsetup", "message", l.name, "0", "countbadblocks"), " 0 ") {
				left++
			}
		}
		return left == 0
	})
	w.check("with bad sectors", w.f)
	m.await("in-sync", "in-sync")
	_ = w.f.Close()
	m.end(ctx)
}

// dustBlocks is how many bad sectors a leg gets.
const dustBlocks = 8

// A server that is killed while fio writes has a successor which makes the legs the same.
func TestMirrorKilled(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	m := newMirrored(ctx, t)
	for round := range crashNumber(t, "VARVE_CRASH_MIRROR_KILLS", 1) {
		writer := start(t, "fio", fioVerify(m.dev, "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=16M", "--io_size=12M", "--rate_iops=2500")...)
		time.Sleep(time.Duration(200+150*round) * time.Millisecond)
		m.kill()
		must(ctx, t, varve, "ublk", "recover", m.id())
		<-writer.done
		if writer.err != nil {
			t.Fatalf("fio: %v\n%s", writer.err, &writer.out)
		}
		m.await("in-sync", "in-sync")
	}
	m.end(ctx)
}

// The power goes: from one moment on each leg loses what is written, the second one later. What was
// flushed before is there, and what is read at first is what is read later, from either leg.
func TestMirrorPowerCut(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	m := newMirrored(ctx, t)
	for range crashNumber(t, "VARVE_CRASH_MIRROR_CUTS", 1) {
		w := newBlockWriter(t, m.dev)
		w.fill(50)
		for range 40 {
			if err := w.write(); err != nil {
				t.Fatal(err)
			}
		}
		w.before, w.since = maps.Clone(w.durable), maps.Clone(w.later)
		for _, l := range m.legs {
			l.become(ctx, t, diskDropWrites)
			for range 20 {
				_ = w.write()
			}
		}
		m.kill()
		w.lied()
		for _, l := range m.legs {
			l.become(ctx, t, diskWell)
		}
		must(ctx, t, varve, "ublk", "recover", m.id())
		w.check("after the cut", w.f)
		first := w.all()
		m.await("in-sync", "in-sync")
		for range 4 { // from one leg or the other
			if !bytes.Equal(w.all(), first) {
				t.Fatal("what was read after the cut has changed")
			}
		}
		_ = w.f.Close()
	}
	m.end(ctx)
}

// all reads all blocks.
func (w *blockWriter) all() []byte {
	w.t.Helper()
	b := aligned(w.t, writerBlocks*writerBlock)
	if _, err := w.f.ReadAt(b, 0); err != nil {
		w.t.Fatal(err)
	}
	return b
}
