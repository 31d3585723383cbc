package protocol

import (
	"errors"
	"fmt"
)

// Zones are those of a zoned null or loop device, which are written from their start on. A file has
// its own: what is said of them here is for a new one (Target.Format).
type Zones struct {
	Zoned          bool  `json:"zoned,omitempty"`
	ZoneSize       int64 `json:"zone_size,omitempty"`          // bytes
	Conventional   int   `json:"conventional_zones,omitempty"` // zones
	MaxOpenZones   int   `json:"max_open_zones,omitempty"`     // 0: any number
	MaxActiveZones int   `json:"max_active_zones,omitempty"`   // 0: any number
}

func (t *Target) checkZones() error {
	if !t.Zoned {
		if t.ZoneSize != 0 || t.Conventional != 0 || t.MaxOpenZones != 0 || t.MaxActiveZones != 0 {
			return errors.New("the size and number of zones are for a target with --zoned")
		}
		return nil
	}
	if t.Type != "null" && t.Type != "loop" {
		return fmt.Errorf("a zoned %s; --zoned is for the targets null and loop", t.Type)
	}
	if (t.Type == "null" || t.Format) && t.ZoneSize == 0 {
		return errors.New("the zone size is missing")
	}
	for _, n := range []int64{t.ZoneSize, int64(t.Conventional), int64(t.MaxOpenZones), int64(t.MaxActiveZones)} {
		if n < 0 {
			return fmt.Errorf("%d for the size or number of zones; use 0 or more", n)
		}
	}
	return nil
}
