package zoned

import "varve/blockdev/target/zoned/zone"

// Null is a zoned disk that moves nothing: reads leave the reader's memory as it was. Its zones are
// in the memory of the process, and empty in the next one: its device must not be recovered.
type Null struct{ disk }

// NewNull makes a zoned disk that moves nothing; blockSize is 512 or 4096, or 0 for 512.
func NewNull(g zone.Geometry, blockSize int) (*Null, error) {
	zones, err := zone.New(g, fresh(&g), nil)
	if err != nil {
		return nil, err
	}
	return &Null{disk{zones: zones, lim: limits(&g, blockSize)}}, nil
}

// fresh are the states of a new disk's zones.
func fresh(g *zone.Geometry) []zone.Word {
	if g.Validate() != nil {
		return nil // zone.New says why
	}
	words := make([]zone.Word, g.Zones())
	for i := range words {
		words[i] = g.Fresh(i)
	}
	return words
}
