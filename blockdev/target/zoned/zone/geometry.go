package zone

import (
	"errors"
	"fmt"
)

// sectorSize is the unit of the kernel's block layer, in bytes.
const sectorSize = 512

// Bounds of a Geometry.
const (
	MinSize  = 64 << 10 // bytes of a zone
	MaxSize  = 64 << 30
	MaxZones = 1 << 18
)

// ErrGeometry is that of no zoned disk.
var ErrGeometry = errors.New("invalid zones")

// Geometry is what does not change about the zones of a disk.
type Geometry struct {
	Size         int64 // of the disk in bytes, a multiple of ZoneSize
	ZoneSize     int64 // of each zone in bytes, a power of two
	Conventional int   // how many zones, from the first on, are conventional
	MaxOpen      int   // how many sequential zones may be open together; 0: any number
	MaxActive    int   // how many may be open or closed together; 0: any number
}

// Zones is how many zones the disk has.
func (g *Geometry) Zones() int { return int(g.Size / g.ZoneSize) }

// Validate reports what no zoned disk could have, as ErrGeometry.
func (g *Geometry) Validate() error {
	z := g.ZoneSize
	if z < MinSize || z > MaxSize || z&(z-1) != 0 {
		return fmt.Errorf("%w: zone size %d; use a power of two from %d to %d", ErrGeometry, z, MinSize, int64(MaxSize))
	}
	if g.Size <= 0 || g.Size%z != 0 {
		return fmt.Errorf("%w: size %d is not a positive multiple of the zone size %d", ErrGeometry, g.Size, z)
	}
	if g.Size/z > MaxZones {
		return fmt.Errorf("%w: %d zones; use %d at most, by larger zones", ErrGeometry, g.Size/z, MaxZones)
	}
	sequential := g.Zones() - g.Conventional
	if g.Conventional < 0 || sequential < 1 {
		return fmt.Errorf("%w: %d conventional zones of %d; at least one has to be sequential", ErrGeometry, g.Conventional, g.Zones())
	}
	if g.MaxOpen < 0 || g.MaxOpen > sequential {
		return fmt.Errorf("%w: at most %d open zones; the disk has %d sequential ones", ErrGeometry, g.MaxOpen, sequential)
	}
	if g.MaxActive < 0 || g.MaxActive > sequential {
		return fmt.Errorf("%w: at most %d active zones; the disk has %d sequential ones", ErrGeometry, g.MaxActive, sequential)
	}
	if g.MaxActive != 0 && g.MaxOpen > g.MaxActive {
		return fmt.Errorf("%w: at most %d open zones, but %d active ones; open zones are active", ErrGeometry, g.MaxOpen, g.MaxActive)
	}
	return nil
}
