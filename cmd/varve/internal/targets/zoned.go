package targets

import (
	"fmt"

	"varve/blockdev"
	"varve/blockdev/target/zoned"
	"varve/blockdev/target/zoned/zone"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore/vfs"
)

// openZoned opens a zoned null or loop target.
func (d *Disk) openZoned(t *protocol.Target) error {
	g := zone.Geometry{
		Size: t.Size, ZoneSize: t.ZoneSize, Conventional: t.Conventional, MaxOpen: t.MaxOpenZones, MaxActive: t.MaxActiveZones,
	}
	if t.Type == "null" {
		n, err := zoned.NewNull(g, t.BlockSize)
		if err != nil {
			return fmt.Errorf("%w: %w", blockdev.ErrInvalid, err)
		}
		d.Target = n
		return nil
	}
	boot, err := vfs.BootID()
	if err != nil {
		return err
	}
	z, err := zoned.Open(t.Files[0], zoned.Options{
		Format: t.Format, Geometry: g, BlockSize: t.BlockSize, ReadOnly: t.ReadOnly, Buffered: t.Buffered, Runtime: Runtime, Boot: boot,
	})
	if err != nil {
		return err
	}
	d.Target, d.close, d.Notes = z, z.Close, z.Notes()
	if !z.Direct() && !t.Buffered {
		d.Notes = append(d.Notes, noDirect+throughCache)
	}
	return nil
}
