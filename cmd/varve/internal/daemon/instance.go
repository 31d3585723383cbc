package daemon

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore/vfs"
)

// A copy of a store has the same UUID, volumes and list of devices, and must not take the devices of the original. So
// devices are bound to one instance of a store: the file that whoever serves it holds locked, on the device that its file
// system shows. A copy, a restored backup and a snapshot of the disk below have another one; a store that is moved by
// rename keeps it. Who holds the lock serves the instance alone, so a device with its mark is nobody else's.
//
// The mark that the driver keeps with a device is made of the instance and the volume. It can't be changed, so the list
// of devices notes it (protocol.Attachment.Mark): for devices that an older version has made, and for those of a store
// that somebody has said was moved. The list is bound to the instance itself: one that was copied is foreign.

// instance is one store at one place.
type instance struct {
	uuid string    // of the store's files, which copies share
	id   string    // "": a store without a lock
	born time.Time // when the superblock came to this place; zero: not known
}

// instanceAt is the instance of the store in dir.
func instanceAt(dir, uuid string) (instance, error) {
	in := instance{uuid: uuid}
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	if err != nil {
		return in, err
	}
	defer func() { _ = f.Close() }()
	id, device, err := vfs.Identify(f)
	if err != nil {
		return in, err
	}
	h := sha256.Sum256(fmt.Appendf(nil, "varve instance\x00%x\x00%x\x00%x\x00%x", device, id.Inode, id.Generation, id.Birth))
	in.id = hex.EncodeToString(h[:16])
	in.born = superblockBorn(dir)
	return in, nil
}

// lockName is the file of the store that its daemon holds locked.
const lockName = "lock"

// superblockBorn says when the older of the two files of the superblock was made; one may have been mended since.
func superblockBorn(dir string) time.Time {
	var born time.Time
	for _, name := range []string{"superblock", "superblock.copy"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		id, _, err := vfs.Identify(f)
		_ = f.Close()
		if at := time.Unix(0, id.Birth); err == nil && id.Birth != 0 && (born.IsZero() || at.Before(born)) {
			born = at
		}
	}
	return born
}

// mark is what the driver keeps with the device of a volume of this instance.
func (in instance) mark(volume string) uint64 {
	h := sha256.Sum256(fmt.Appendf(nil, "varve device\x00%s\x00%s\x00%s", in.uuid, in.id, volume))
	return binary.LittleEndian.Uint64(h[:])
}

// oldMark is the mark of versions that bound devices to the UUID alone.
func (in instance) oldMark(volume string) uint64 { return ownerOf(in.uuid, volume) }

// ownerOf is a hash of a store's UUID and a volume's name.
func ownerOf(uuid, volume string) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "varve\x00%s\x00%s", uuid, volume) // a hash takes everything
	return h.Sum64()
}

// Owner is what the kernel keeps with devices of `varve ublk`, which belong to no store.
var Owner = ownerOf("", "")

// claims are what a store has devices by.
type claims struct {
	volumes []string              // which this instance's marks are made of
	noted   []protocol.Attachment // of its list, with their marks; the number -1 is any that was never started
}

// has says whose device of this store it is; false: not of this store.
func (c *claims) has(in instance, i *blockdev.DeviceInfo) (volume string, ours bool) {
	for _, v := range c.volumes {
		if i.Owner == in.mark(v) {
			return v, true
		}
	}
	for _, a := range c.noted {
		if a.Mark != 0 && a.Mark == i.Owner && (a.ID == i.ID || a.ID < 0 && i.Unstarted()) {
			return a.Volume, true
		}
	}
	return "", false
}
