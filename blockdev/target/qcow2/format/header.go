package format

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// Incompatible features.
const (
	Dirty        uint64 = 1 << iota // refcounts may be too small
	Corrupt                         // nothing may be written
	ExternalData                    // guest clusters are in another file
	compression                     // of another type than deflate
	ExtendedL2                      // L2 entries have subclusters

	knownIncompatible = Dirty | Corrupt | ExternalData | compression | ExtendedL2
)

// Compression is how compressed clusters are compressed.
type Compression uint8

// Compressions.
const (
	Deflate Compression = iota // without zlib's header
	Zstd
)

// Types of header extensions.
const (
	extEnd           = 0
	extBackingFormat = 0xe2792aca
	extFeatureNames  = 0x6803f857
	extBitmaps       = 0x23852875
	extEncryption    = 0x0537be77
	extExternalData  = 0x44415441
)

// Header is what the first cluster of an image says.
type Header struct {
	Geometry
	Backing       string // name of the backing file; empty: none
	BackingFormat string // "raw", "qcow2"; empty: the image does not say
	L1Entries     int
	L1Offset      int64
	RefTable      int64 // offset of the refcount table
	RefClusters   int   // its size in clusters
	Snapshots     int
	SnapshotTable int64
	Incompatible  uint64
	Compatible    uint64
	Autoclear     uint64
	Compression   Compression
	// OwnsMore says that clusters may be in use which neither L1 tables nor the tables of the
	// header name: those of bitmaps, or of an extension that is unknown.
	OwnsMore bool
}

// Geometry is how an image is divided.
type Geometry struct {
	Version      int   // 2 or 3
	ClusterBits  uint  // a cluster has 1<<ClusterBits bytes
	Size         int64 // of the guest's disk, in bytes
	RefcountBits uint  // log2 of the width of a refcount, in bits
	Extended     bool  // L2 entries are extended
}

// Offsets of fields that are written by themselves. All lie in the first sector.
const (
	RefTableField     = 48 // offset, then the number of clusters: 12 bytes
	IncompatibleField = 72
	AutoclearField    = 88
)

const (
	headerV2 = 72
	headerV3 = 104
	// HeaderSize is how many bytes ClusterSize needs.
	HeaderSize = headerV3
)

const magic = 'Q'<<24 | 'F'<<16 | 'I'<<8 | 0xfb

// ClusterSize returns the cluster size in bytes of the image that begins with b: how many bytes
// ParseHeader wants.
func ClusterSize(b []byte) (int, error) {
	if len(b) < headerV2 || binary.BigEndian.Uint32(b) != magic {
		return 0, ErrNoImage
	}
	if v := binary.BigEndian.Uint32(b[4:]); v != 2 && v != 3 {
		return 0, unsupported("version %d; 2 and 3 are known", v)
	}
	bits := binary.BigEndian.Uint32(b[20:])
	if bits < MinClusterBits || bits > MaxClusterBits {
		return 0, damaged("clusters of 2^%d bytes; 2^%d to 2^%d are possible", bits, MinClusterBits, MaxClusterBits)
	}
	return 1 << bits, nil
}

// ParseHeader decodes the first cluster of an image whose file has fileSize bytes. b is that
// cluster, or all of the file if that is smaller.
func ParseHeader(b []byte, fileSize int64) (Header, error) {
	var h Header
	cluster, err := ClusterSize(b)
	if err != nil {
		return h, err
	}
	b = b[:min(len(b), cluster)]
	be := binary.BigEndian
	h.Geometry = Geometry{Version: int(be.Uint32(b[4:])), ClusterBits: uint(be.Uint32(b[20:])), RefcountBits: 4}
	length := headerV2
	if h.Version == 3 {
		if length, err = h.parseV3(b); err != nil {
			return h, err
		}
	}
	switch crypt := be.Uint32(b[32:]); {
	case crypt == 1:
		return h, unsupported("it is encrypted (AES)")
	case crypt == 2:
		return h, unsupported("it is encrypted (LUKS)")
	case crypt != 0:
		return h, unsupported("it is encrypted by unknown method %d", crypt)
	}
	if err := h.parseTables(b, fileSize); err != nil {
		return h, err
	}
	if err := h.parseExtensions(b[length:]); err != nil {
		return h, err
	}
	return h, h.parseBacking(b)
}

// parseV3 decodes what version 3 has beyond version 2, and returns the length of the header.
func (h *Header) parseV3(b []byte) (length int, err error) {
	be := binary.BigEndian
	if len(b) < headerV3 {
		return 0, damaged("a header of %d bytes", len(b))
	}
	h.Incompatible, h.Compatible, h.Autoclear = be.Uint64(b[72:]), be.Uint64(b[80:]), be.Uint64(b[88:])
	order, n := be.Uint32(b[96:]), be.Uint32(b[100:])
	if n < headerV3 || n%8 != 0 || int64(n) > int64(len(b)) {
		return 0, damaged("header length %d", n)
	}
	if unknown := h.Incompatible &^ knownIncompatible; unknown != 0 {
		return 0, unsupported("unknown incompatible features %s", featureNames(b[n:], unknown))
	}
	if h.Incompatible&ExternalData != 0 {
		return 0, unsupported("its data is in an external file (data_file)")
	}
	if order > 6 {
		return 0, damaged("refcount order %d; 0 to 6 are possible", order)
	}
	h.RefcountBits = uint(order)
	if n > 104 {
		h.Compression = Compression(b[104])
	}
	if has := h.Incompatible&compression != 0; has != (h.Compression != Deflate) {
		return 0, damaged("compression type %d contradicts the incompatible features %#x", h.Compression, h.Incompatible)
	}
	if h.Compression > Zstd {
		return 0, unsupported("unknown compression type %d", h.Compression)
	}
	if h.Extended = h.Incompatible&ExtendedL2 != 0; h.Extended && h.ClusterBits < 14 {
		return 0, damaged("subclusters of clusters of %d bytes", h.ClusterSize())
	}
	return int(n), nil
}

// parseTables decodes where the tables are, all of which lie in the file.
func (h *Header) parseTables(b []byte, fileSize int64) error {
	be := binary.BigEndian
	size, l1 := be.Uint64(b[24:]), int64(be.Uint32(b[36:]))
	ref, snaps := int64(be.Uint32(b[56:])), int64(be.Uint32(b[60:]))
	if size == 0 || size > 1<<62 {
		return damaged("a disk of %d bytes", size)
	}
	h.Size, h.L1Entries, h.RefClusters, h.Snapshots = int64(size), int(l1), int(ref), int(snaps)
	if l1*8 > maxL1 || l1 < h.L1Needed() {
		return damaged("an L1 table of %d entries; a disk of %d bytes needs %d, and %d are possible", l1, size, h.L1Needed(), maxL1/8)
	}
	if ref == 0 || ref<<h.ClusterBits > max(MaxRefTable, h.ClusterSize()) {
		return damaged("a refcount table of %d clusters", ref)
	}
	if snaps > maxSnapshots {
		return damaged("%d snapshots; %d are possible", snaps, maxSnapshots)
	}
	var err error
	place := func(what string, field int, length int64) int64 {
		at := be.Uint64(b[field:])
		if err == nil {
			err = h.CheckTable(what, at, length, fileSize)
		}
		return int64(at)
	}
	h.L1Offset = place("L1 table", 40, l1*8)
	h.RefTable = place("refcount table", RefTableField, ref<<h.ClusterBits)
	if snaps > 0 {
		h.SnapshotTable = place("snapshot table", 64, snaps*snapshotMin)
	}
	return err
}

// parseExtensions decodes the header extensions.
func (h *Header) parseExtensions(b []byte) error {
	for len(b) >= 8 {
		kind, n := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint32(b[4:]))
		if kind == extEnd {
			return nil
		}
		b = b[8:]
		if n > int64(len(b)) {
			return damaged("header extension %#x has %d bytes, its cluster has %d", kind, n, len(b))
		}
		switch kind {
		case extBackingFormat:
			h.BackingFormat = string(b[:n])
		case extEncryption:
			return unsupported("it has an encryption header")
		case extExternalData:
			return unsupported("its data is in the external file %q", b[:n])
		case extFeatureNames:
		default: // bitmaps too
			h.OwnsMore = true
		}
		b = b[min(int64(len(b)), (n+7)&^7):]
	}
	return nil
}

// parseBacking decodes the name of the backing file.
func (h *Header) parseBacking(b []byte) error {
	off, n := binary.BigEndian.Uint64(b[8:]), uint64(binary.BigEndian.Uint32(b[16:]))
	if off == 0 {
		return nil
	}
	if n == 0 || n > maxBackingName || off > uint64(len(b)) || n > uint64(len(b))-off {
		return damaged("a backing file name of %d bytes at %d", n, off)
	}
	h.Backing = string(b[off : off+n])
	if strings.ContainsRune(h.Backing, 0) || !utf8.ValidString(h.Backing) {
		return damaged("the name of the backing file, %q", h.Backing)
	}
	return nil
}

// featureNames names bits of the incompatible features, as far as the image does.
func featureNames(ext []byte, bits uint64) string {
	names := make(map[uint8]string)
	for len(ext) >= 8 {
		kind, n := binary.BigEndian.Uint32(ext), int64(binary.BigEndian.Uint32(ext[4:]))
		ext = ext[8:]
		if kind == extEnd || n > int64(len(ext)) {
			break
		}
		for e := ext[:n]; kind == extFeatureNames && len(e) >= 48; e = e[48:] {
			if e[0] == 0 && e[1] < 64 {
				names[e[1]] = strings.TrimRight(string(e[2:48]), "\x00")
			}
		}
		ext = ext[min(int64(len(ext)), (n+7)&^7):]
	}
	return listBits(bits, names)
}
