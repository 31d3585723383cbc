package blockdev

import (
	"fmt"
	"math/bits"

	"varve/blockdev/target"
)

const (
	sectorShift = 9
	pageSize    = 4096

	// maxDiscard in bytes bounds one discard or write of zeroes.
	maxDiscard = 1 << 30
)

// params returns the limits as parameters of the driver. maxIO is in bytes.
func params(l *target.Limits, maxIO int) ublk_params {
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
	if (l.Discard || l.Zeroes) && !l.ReadOnly {
		p.types |= _UBLK_PARAM_TYPE_DISCARD
		p.discard = ublk_param_discard{discard_granularity: pageSize, max_discard_segments: 1}
		if l.Discard {
			p.discard.max_discard_sectors = maxDiscard >> sectorShift
		}
		if l.Zeroes {
			p.discard.max_write_zeroes_sectors = maxDiscard >> sectorShift
		}
	}
	if z := &l.Zones; z.Size != 0 {
		// The driver's check of a zoned device ends before what it would say of the alignment
		// (ublk_validate_params in drivers/block/ublk_drv.c, Linux 7.3); Limits.Validate has checked it.
		p.types |= _UBLK_PARAM_TYPE_ZONED
		p.basic.chunk_sectors = uint32(z.Size >> sectorShift)
		p.zoned = ublk_param_zoned{
			max_open_zones: uint32(z.MaxOpen), max_active_zones: uint32(z.MaxActive), max_zone_append_sectors: p.basic.max_sectors,
		}
	}
	p.dma.alignment = uint32(l.DMAAlign - 1)
	return p
}

// match reports whether a device with these parameters can be served further as the disk that l
// describes, which with mayGrow may be larger than the device.
func match(l *target.Limits, p *ublk_params, mayGrow bool) error {
	size := int64(p.basic.dev_sectors) << sectorShift
	switch {
	case size > l.Size, size < l.Size && !mayGrow:
		return fmt.Errorf("%w: the device has %d bytes, the target %d", ErrMismatch, size, l.Size)
	case 1<<p.basic.logical_bs_shift < l.BlockSize:
		return fmt.Errorf("%w: the device has blocks of %d bytes, the target of %d", ErrMismatch, 1<<p.basic.logical_bs_shift, l.BlockSize)
	case l.MaxIO != 0 && int64(p.basic.max_sectors)<<sectorShift > int64(l.MaxIO):
		return fmt.Errorf("%w: the device has requests of up to %d bytes, the target of %d", ErrMismatch, int64(p.basic.max_sectors)<<sectorShift, l.MaxIO)
	case zonesOf(p) != l.Zones:
		return fmt.Errorf("%w: the device has the zones %+v, the target %+v", ErrMismatch, zonesOf(p), l.Zones)
	case l.ReadOnly && p.basic.attrs&_UBLK_ATTR_READ_ONLY == 0:
		return fmt.Errorf("%w: the device is writable, the target is not", ErrMismatch)
	}
	return nil
}

// zonesOf are the zones of a device with these parameters.
func zonesOf(p *ublk_params) target.Zones {
	if p.types&_UBLK_PARAM_TYPE_ZONED == 0 {
		return target.Zones{}
	}
	return target.Zones{
		Size: int64(p.basic.chunk_sectors) << sectorShift, MaxOpen: int(p.zoned.max_open_zones), MaxActive: int(p.zoned.max_active_zones),
	}
}
