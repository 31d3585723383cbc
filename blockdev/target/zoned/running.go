package zoned

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/zoned/zone"
	"varve/uring"
)

// The running pointers are the words of all zones, in a file of a directory that does not outlive the
// boot, in memory that the file's pages are mapped into. The file is there as long as a disk is open
// for writing: one that is left over is of a server that has died, and says how far it came. In the
// machine's order of bytes:
//
//	0        8         12         16     32         48       56      64         72      4096
//	+--------+---------+----------+------+----------+--------+-------+----------+-- ... --+-------+--
//	| magic  | version | checksum | UUID | boot ID  | device | inode | openings |    0    | words |
//	+--------+---------+----------+------+----------+--------+-------+----------+-- ... --+-------+--
//
//	checksum       CRC-32C of the 72 bytes with a checksum of 0
//	UUID, openings of the superblock: the words are those of this opening
//	boot ID        the first 16 characters of the boot's: in a directory that does outlive it
//	device, inode  of the disk's file: a copy of the disk has another
const (
	runningMagic   = "VarveZRn"
	runningVersion = 1

	runVersionAt  = 8
	runChecksumAt = 12
	runIDAt       = 16
	runBootAt     = 32
	runDeviceAt   = 48
	runInodeAt    = 56
	runOpeningsAt = 64
	runHeader     = 72
	runWordsAt    = pageSize
)

// running is the open file of running pointers.
type running struct {
	path  string
	mem   []byte
	words []uint64 // in mem: a zone.Word for each zone
}

// identity is what the running pointers belong to.
type identity struct {
	super      *super
	boot       string
	dev, inode uint64
}

// identify returns what the running pointers of an open disk belong to.
func identify(fd int, s *super, boot string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return identity{}, fmt.Errorf("stat backing file: %w", err)
	}
	id := identity{super: s, boot: boot, dev: st.Dev, inode: st.Ino}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		id.dev, id.inode = st.Rdev, 0
	}
	return id, nil
}

func (id *identity) path(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%v-%x-%x.zones", id.super.id, id.dev, id.inode))
}

func (id *identity) encode(p []byte) {
	ne := binary.NativeEndian
	clear(p[:runHeader])
	copy(p, runningMagic)
	ne.PutUint32(p[runVersionAt:], runningVersion)
	copy(p[runIDAt:runBootAt], id.super.id[:])
	copy(p[runBootAt:runDeviceAt], id.boot)
	ne.PutUint64(p[runDeviceAt:], id.dev)
	ne.PutUint64(p[runInodeAt:], id.inode)
	ne.PutUint64(p[runOpeningsAt:], id.super.openings)
	ne.PutUint32(p[runChecksumAt:], checksumOf(p[:runHeader]))
}

// left returns the words that a server which has died has left, nil if there are none: the disk was
// closed, or the machine has booted since.
func (id *identity) left(dir string) ([]zone.Word, error) {
	b, err := os.ReadFile(id.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("running write pointers: %w", err)
	}
	g := &id.super.geo
	want := make([]byte, runHeader)
	id.encode(want)
	if len(b) < runWordsAt+8*g.Zones() || string(b[:runHeader]) != string(want) {
		return nil, nil
	}
	words := make([]zone.Word, g.Zones())
	for i := range words {
		words[i] = zone.Word(binary.NativeEndian.Uint64(b[runWordsAt+8*i:]))
		if err := g.Check(i, words[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", id.path(dir), err)
		}
	}
	return words, nil
}

// create makes the file, with the given words, which are complete before the file has its name.
func (id *identity) create(dir string, words []zone.Word) (*running, error) {
	size := runWordsAt + (8*len(words)+pageSize-1)&^(pageSize-1)
	r := &running{path: id.path(dir)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("running write pointers: %w", err)
	}
	f, err := os.OpenFile(r.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("running write pointers: %w", err)
	}
	if err = unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err == nil { // what is mapped must not run out of room
		r.mem, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("running write pointers %s: %w", r.path, err), os.Remove(r.path+".new"))
	}
	r.words = uring.Words(r.mem[runWordsAt:], len(words))
	for i, w := range words {
		r.words[i] = uint64(w)
	}
	id.encode(r.mem)
	if err := os.Rename(r.path+".new", r.path); err != nil {
		return nil, errors.Join(fmt.Errorf("running write pointers: %w", err), r.unmap())
	}
	return r, nil
}

func (r *running) unmap() error { return unix.Munmap(r.mem) }

// remove ends the file of a disk whose pointers are all in its file.
func (r *running) remove() error {
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("running write pointers: %w", err)
	}
	return nil
}
