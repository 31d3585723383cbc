// Package facts is what a workload knows for certain while it works on a store, and what therefore
// must be there after a crash, may be, or may not. The tests that cut the power of a recording and
// those that kill a machine share it.
//
// A fact is noted after what it says has been answered (a file's fsync has returned), an intent
// before it is begun (a file will be unlinked: from here on it may be gone).
package facts

import (
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Fact is something that the workload knows from some moment on.
type Fact struct {
	What   What
	Volume string `json:",omitempty"`
	Name   string `json:",omitempty"` // of a file or snapshot
	Size   int    `json:",omitempty"` // bytes
	Seed   uint64 `json:",omitempty"` // of a file's content
	Root   string `json:",omitempty"` // of a snapshot, hex
	Count  uint64 `json:",omitempty"` // Flushed: how many writes; Ready: the round
}

// What is the kind of a fact.
type What string

// The facts.
const (
	Ready          What = "ready" // the workload begins
	File           What = "file"  // fsync of it and of its directory has returned
	Unlink         What = "will unlink"
	Snapshot       What = "snapshot" // create --wait has returned
	SnapshotDelete What = "will delete snapshot"
	SnapshotGone   What = "snapshot deleted"
	VolumeCreate   What = "will create volume"
	Volume         What = "volume" // create has returned
	VolumeDelete   What = "will delete volume"
	VolumeGone     What = "volume deleted"
	Flushed        What = "flushed" // fsync of a device has returned, after so many writes to it
)

// Content returns the bytes of a file: random ones, zeroes, and blocks that other files have too.
func (f Fact) Content() []byte {
	r := rand.New(rand.NewPCG(f.Seed, 12))
	b := make([]byte, f.Size)
	for i := 0; i < len(b); i += 4096 {
		block := r
		switch r.IntN(4) {
		case 0:
			continue
		case 1:
			block = rand.New(rand.NewPCG(r.Uint64N(8), 13))
		}
		for j := i; j < min(i+4096, len(b)); j++ {
			b[j] = byte(block.Uint32())
		}
	}
	return b
}

// Write makes the file below dir, and makes it and its name durable.
func (f Fact) Write(dir string) error {
	name := filepath.Join(dir, f.Name)
	parent := filepath.Dir(name)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(f.Content()); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	for _, d := range []string{parent, dir} {
		fd, err := os.Open(d)
		if err != nil {
			return err
		}
		if err := fd.Sync(); err != nil {
			return err
		}
		_ = fd.Close()
	}
	return nil
}

// ID names a file or snapshot, or with an empty Name a volume.
type ID struct{ Volume, Name string }

// Expected is what must be there, and what may not.
type Expected struct {
	Files     map[ID]Fact
	Snapshots map[ID]Fact
	Volumes   map[string]Fact
	Gone      map[ID]bool // snapshots and volumes
}

// Expect adds up facts, in the order in which they were noted. What is neither must nor may not be
// there, may be.
func Expect(list []Fact) *Expected {
	e := &Expected{Files: map[ID]Fact{}, Snapshots: map[ID]Fact{}, Volumes: map[string]Fact{}, Gone: map[ID]bool{}}
	for _, f := range list {
		id := ID{f.Volume, f.Name}
		switch f.What {
		case File:
			e.Files[id] = f
		case Unlink:
			delete(e.Files, id)
		case Snapshot:
			e.Snapshots[id] = f
		case SnapshotDelete:
			delete(e.Snapshots, id)
		case Volume:
			e.Volumes[f.Volume] = f
		case VolumeDelete:
			delete(e.Volumes, f.Volume)
		case SnapshotGone, VolumeGone:
			e.Gone[id] = true
		default: // it says nothing about names
		}
	}
	return e
}
