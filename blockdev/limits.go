package blockdev

import (
	"fmt"
	"math/bits"
)

const (
	sectorShift = 9
	sectorSize  = 1 << sectorShift
	pageSize    = 4096

	// maxDiscard in bytes bounds one discard or write of zeroes.
	maxDiscard = 1 << 30
)

// Limits describe the disk that a Target is.
type Limits struct {
	Size      int64 // bytes, a multiple of BlockSize
	BlockSize int   // logical block in bytes: 512 (also when 0) or 4096
	ReadOnly  bool
	Discard   bool // takes OpDiscard and OpWriteZeroes
	Cache     bool // has a volatile cache: takes OpFlush and FUA
	DMAAlign  int  // alignment in bytes that the files want of a request's memory, a power of two up to 4096; 0: any
}

func (l *Limits) ensureDefaults() {
	if l.BlockSize == 0 {
		l.BlockSize = sectorSize
	}
	if l.DMAAlign == 0 {
		l.DMAAlign = 4
	}
}

func (l *Limits) validate() error {
	switch {
	case l.BlockSize != 512 && l.BlockSize != 4096:
		return fmt.Errorf("%w: block size %d: neither 512 nor 4096", ErrInvalid, l.BlockSize)
	case l.Size <= 0 || l.Size%int64(l.BlockSize) != 0:
		return fmt.Errorf("%w: size %d: not a positive multiple of %d", ErrInvalid, l.Size, l.BlockSize)
	case l.DMAAlign < 1 || l.DMAAlign > pageSize || bits.OnesCount(uint(l.DMAAlign)) != 1:
		return fmt.Errorf("%w: memory alignment %d: not a power of two up to %d", ErrInvalid, l.DMAAlign, pageSize)
	}
	return nil
}

// params are the limits as the driver wants them. maxIO is in bytes.
func (l *Limits) params(maxIO int) ublk_params {
	p := ublk_params{types: _UBLK_PARAM_TYPE_BASIC | _UBLK_PARAM_TYPE_DMA_ALIGN}
	p.basic = ublk_param_basic{
		logical_bs_shift:  uint8(bits.TrailingZeros(uint(l.BlockSize))),
		physical_bs_shift: 12,
		io_opt_shift:      12,
		io_min_shift:      12,
		max_sectors:       uint32(maxIO >> sectorShift),
		dev_sectors:       uint64(l.Size >> sectorShift),
	}
	if l.ReadOnly {
		p.basic.attrs |= _UBLK_ATTR_READ_ONLY
	}
	if l.Cache {
		p.basic.attrs |= _UBLK_ATTR_VOLATILE_CACHE | _UBLK_ATTR_FUA
	}
	if l.Discard && !l.ReadOnly {
		p.types |= _UBLK_PARAM_TYPE_DISCARD
		p.discard = ublk_param_discard{
			discard_granularity:      pageSize,
			max_discard_sectors:      maxDiscard >> sectorShift,
			max_write_zeroes_sectors: maxDiscard >> sectorShift,
			max_discard_segments:     1,
		}
	}
	p.dma.alignment = uint32(l.DMAAlign - 1)
	return p
}

// match says whether a device with these parameters can go on being served as the disk that l describes.
func (l *Limits) match(p *ublk_params) error {
	switch {
	case int64(p.basic.dev_sectors)<<sectorShift != l.Size:
		return fmt.Errorf("%w: the device has %d bytes, the target %d", ErrMismatch, int64(p.basic.dev_sectors)<<sectorShift, l.Size)
	case 1<<p.basic.logical_bs_shift < l.BlockSize:
		return fmt.Errorf("%w: the device has blocks of %d bytes, the target of %d", ErrMismatch, 1<<p.basic.logical_bs_shift, l.BlockSize)
	case l.ReadOnly && p.basic.attrs&_UBLK_ATTR_READ_ONLY == 0:
		return fmt.Errorf("%w: the device takes writes, the target does not", ErrMismatch)
	}
	return nil
}
