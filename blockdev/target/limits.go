package target

import (
	"fmt"
	"math/bits"

	"varve/uring/queue"
)

// SectorSize in bytes is the smallest block of a disk, and the unit of the kernel's block layer.
const SectorSize = 512

// maxAlign in bytes is the largest alignment of memory that a disk may want: a page.
const maxAlign = 4096

// Limits describe the disk that a Target is.
type Limits struct {
	Size      int64 // bytes, a multiple of BlockSize
	BlockSize int   // logical block in bytes: 512 (also when 0) or 4096
	ReadOnly  bool
	Discard   bool // takes OpDiscard
	Zeroes    bool // takes OpWriteZeroes
	Cache     bool // has a volatile cache: takes OpFlush and FUA
	DMAAlign  int  // alignment in bytes that the files want of a request's memory, a power of two up to 4096; 0: any
	MaxIO     int  // bytes of the largest read or write, a multiple of 4096; 0: any
	Queues    int  // how many queues the disk may have at most; 0: any
	Zones     Zones
}

// Zones describe a zoned disk: one whose zones are written from their start on. It takes the
// operations of zones, and neither OpDiscard nor OpWriteZeroes.
type Zones struct {
	Size      int64 // of each zone in bytes, a power of two, of which the disk's size is a multiple; 0: not zoned
	MaxOpen   int   // how many zones may be open together; 0: any number
	MaxActive int   // how many zones may be open or closed together; 0: any number
}

// EnsureDefaults fills in what is zero.
func (l *Limits) EnsureDefaults() {
	if l.BlockSize == 0 {
		l.BlockSize = SectorSize
	}
	if l.DMAAlign == 0 {
		l.DMAAlign = 4
	}
}

// Validate reports the first limit that no disk could have, as queue.ErrInvalid.
func (l *Limits) Validate() error {
	switch {
	case l.BlockSize != 512 && l.BlockSize != 4096:
		return fmt.Errorf("%w: block size %d: neither 512 nor 4096", queue.ErrInvalid, l.BlockSize)
	case l.Size <= 0 || l.Size%int64(l.BlockSize) != 0:
		return fmt.Errorf("%w: size %d: not a positive multiple of %d", queue.ErrInvalid, l.Size, l.BlockSize)
	case l.Zones.Size < 0 || l.Zones.Size&(l.Zones.Size-1) != 0 || l.Zones.Size != 0 && l.Size%l.Zones.Size != 0:
		return fmt.Errorf("%w: zones of %d bytes: not a power of two, or no divisor of the size %d", queue.ErrInvalid, l.Zones.Size, l.Size)
	case l.Zones.Size != 0 && (l.Discard || l.Zeroes):
		return fmt.Errorf("%w: a zoned disk takes no discards and zeroes", queue.ErrInvalid)
	case l.DMAAlign < 1 || l.DMAAlign > maxAlign || bits.OnesCount(uint(l.DMAAlign)) != 1:
		return fmt.Errorf("%w: memory alignment %d: not a power of two up to %d", queue.ErrInvalid, l.DMAAlign, maxAlign)
	case l.MaxIO < 0 || l.MaxIO%maxAlign != 0 || l.Queues < 0:
		return fmt.Errorf("%w: largest request %d, at most %d queues", queue.ErrInvalid, l.MaxIO, l.Queues)
	}
	return nil
}

// Bound returns n, or the limit if that is smaller; 0 is no limit.
func Bound(n, limit int) int {
	if limit == 0 {
		return n
	}
	return min(n, limit)
}
