package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"varve/integration/facts"
)

// The raw volume has no filesystem: numbered writes go to its device, past the page cache, and each
// sector says which one it is of, as fio's verify headers do. After a kill a sector holds the last
// write to it that was flushed, or a later one.
//
//	sector   0  value u64: round << 32 | number of the write + 1; all zeroes: never written, or discarded
//	         8  sector u64
//	        16  bytes drawn from both
const (
	sectorSize = 512
	rawSectors = rawSize / sectorSize
	rawState   = "raw.state" // what the sectors held when a round began: round u64, then a value u64 each
)

var le = binary.LittleEndian

// rawWrite is one write: where it goes is drawn from the round and its number.
type rawWrite struct {
	first, sectors int
	value          uint64 // 0: a discard
}

func rawWriteOf(seed, round, i uint64) rawWrite {
	r := rand.New(rand.NewPCG(seed+round, i))
	w := rawWrite{sectors: 1 + r.IntN(64), value: round<<32 | (i + 1)}
	if r.IntN(4) == 0 {
		w.sectors *= 8
	}
	w.first = r.IntN(rawSectors - w.sectors)
	if r.IntN(2) == 0 {
		w.first = w.first / 8 * 8
	}
	if r.IntN(12) == 0 {
		w.value = 0
	}
	return w
}

func fillSector(b []byte, value uint64, sector int) {
	if value == 0 {
		clear(b)
		return
	}
	le.PutUint64(b, value)
	le.PutUint64(b[8:], uint64(sector))
	r := rand.New(rand.NewPCG(value, uint64(sector)))
	for o := 16; o < sectorSize; o += 8 {
		le.PutUint64(b[o:], r.Uint64())
	}
}

// startRaw opens the device and returns a function that writes until the machine is killed.
func (g *guest) startRaw() (func() error, error) {
	if g.round == 0 {
		if err := g.saveRaw(make([]uint64, rawSectors)); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Open(g.devices[rawVolume], unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", g.devices[rawVolume], err)
	}
	buf, err := unix.Mmap(-1, 0, 64*8*sectorSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	return func() error {
		for i := uint64(0); ; i++ {
			if err := doRaw(fd, rawWriteOf(g.seed, uint64(g.round), i), buf); err != nil {
				return fmt.Errorf("write %d to %s: %w", i, g.devices[rawVolume], err)
			}
			if i%13 != 12 {
				continue
			}
			if err := again(func() error { return unix.Fdatasync(fd) }); err != nil {
				return err
			}
			if err := g.book.note(facts.Fact{What: facts.Flushed, Volume: rawVolume, Count: i + 1}); err != nil {
				return err
			}
		}
	}, nil
}

func doRaw(fd int, w rawWrite, buf []byte) error {
	off, n := int64(w.first)*sectorSize, int64(w.sectors)*sectorSize
	if w.value == 0 {
		return again(func() error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		})
	}
	for s := range w.sectors {
		fillSector(buf[s*sectorSize:(s+1)*sectorSize], w.value, w.first+s)
	}
	return again(func() error {
		got, err := unix.Pwrite(fd, buf[:n], off)
		if err == nil && got != int(n) {
			err = fmt.Errorf("%d of %d bytes written", got, n)
		}
		return err
	})
}

func again(op func() error) error {
	for {
		if err := op(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (g *guest) saveRaw(values []uint64) error {
	b := make([]byte, 8+8*len(values))
	le.PutUint64(b, uint64(g.round))
	for i, v := range values {
		le.PutUint64(b[8+8*i:], v)
	}
	name := filepath.Join(g.dir, rawState)
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// checkRaw holds every sector against what it may be, and notes what it is: from here on it stays.
func (g *guest) checkRaw() (int, error) {
	state, err := os.ReadFile(filepath.Join(g.dir, rawState))
	if err != nil || len(state) != 8+8*rawSectors {
		return 0, fmt.Errorf("%s has %d bytes: %w", rawState, len(state), err)
	}
	durable := make([]uint64, rawSectors)
	for i := range durable {
		durable[i] = le.Uint64(state[8+8*i:])
	}
	later := map[int][]uint64{}
	if round, flushed := g.lastRound(); round == le.Uint64(state) {
		for i := range flushed + 64 { // more than a round has under way between two flushes
			w := rawWriteOf(g.seed, round, i)
			for s := w.first; s < w.first+w.sectors; s++ {
				if i < flushed {
					durable[s] = w.value
				} else {
					later[s] = append(later[s], w.value)
				}
			}
		}
	}
	f, err := os.Open(g.devices[rawVolume])
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, want := make([]byte, rawSize), make([]byte, sectorSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return 0, err
	}
next:
	for s := range durable {
		got := b[s*sectorSize : (s+1)*sectorSize]
		for _, v := range append(later[s], durable[s]) {
			if fillSector(want, v, s); bytes.Equal(got, want) {
				durable[s] = v
				continue next
			}
		}
		return 0, fmt.Errorf("volume %s sector %d holds write %#x of sector %d; want %#x, or later %#x", rawVolume, s, le.Uint64(got), le.Uint64(got[8:]), durable[s], later[s])
	}
	return rawSectors, g.saveRaw(durable)
}

// lastRound returns the last round that wrote, and how many of its writes were flushed.
func (g *guest) lastRound() (round, flushed uint64) {
	for _, f := range g.book.list {
		switch f.What {
		case facts.Ready:
			round, flushed = f.Count, 0
		case facts.Flushed:
			flushed = f.Count
		default: // of the filesystems
		}
	}
	return round, flushed
}
