// Package instance tells a store from its copies, and to which store a ublk device belongs.
//
// A copy of a store has the same UUID, volumes and list of devices, but must not take over the
// devices of the original. So devices are bound to one instance of a store: the lock file that its
// daemon holds, on the device that its file system is on. A copy, a restored backup and a snapshot
// of the disk below have another lock file; a renamed store keeps its own. Only the process that
// holds the lock serves the instance, so no other process serves a device with the mark of the
// instance.
//
// The mark is a number that the driver keeps with a device (Options.Owner of package blockdev),
// made from the instance and the volume. It cannot be changed later, so the list of devices has it
// too (protocol.Attachment.Mark), for devices that an older version has made, and for those of a
// store that was moved. The list names the instance, so the devices in a copied list are foreign.
package instance

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

	"varve/objstore/vfs"
)

// Instance identifies a store in one location.
type Instance struct {
	UUID string    // of the store's files, which copies share
	ID   string    // empty: a store without a lock file
	Born time.Time // when the superblock was created here; zero: unknown
}

// At returns the instance of the store in dir, whose files have the UUID.
func At(dir, uuid string) (Instance, error) {
	in := Instance{UUID: uuid}
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	if err != nil {
		return in, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	id, device, err := vfs.Identify(f)
	if err != nil {
		return in, err
	}
	h := sha256.Sum256(fmt.Appendf(nil, "varve instance\x00%x\x00%x\x00%x\x00%x", device, id.Inode, id.Generation, id.Birth))
	in.ID = hex.EncodeToString(h[:16])
	in.Born = superblockBorn(dir)
	return in, nil
}

// lockName is the file of the store that its daemon holds locked.
const lockName = "lock"

// superblockBorn returns when the older of the two files of the superblock was created; the other
// may have been repaired since.
func superblockBorn(dir string) time.Time {
	var born time.Time
	for _, name := range []string{"superblock", "superblock.copy"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		id, _, err := vfs.Identify(f)
		_ = f.Close() // nothing was written
		if at := time.Unix(0, id.Birth); err == nil && id.Birth != 0 && (born.IsZero() || at.Before(born)) {
			born = at
		}
	}
	return born
}

// Mark returns the mark of the device of a volume of this instance. The mark name is that of
// objstore.VolumeInfo, which does not change when the volume is renamed.
func (in Instance) Mark(markName string) uint64 {
	h := sha256.Sum256(fmt.Appendf(nil, "varve device\x00%s\x00%s\x00%s", in.UUID, in.ID, markName))
	return binary.LittleEndian.Uint64(h[:])
}

// OldMark returns the mark that older versions used, which bound devices to the UUID alone.
func (in Instance) OldMark(volume string) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "varve\x00%s\x00%s", in.UUID, volume) // a hash never fails
	return h.Sum64()
}

// Standalone is the mark of the devices of `varve ublk`, which belong to no store.
var Standalone = Instance{}.OldMark("")
