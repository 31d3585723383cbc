package disk

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of b.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// UpdateChecksum is the CRC-32C of b, seeded. A record that is seeded by its file and its position
// does not pass for one of another file, or of another position.
func UpdateChecksum(seed uint32, b []byte) uint32 { return crc32.Update(seed, castagnoli, b) }
