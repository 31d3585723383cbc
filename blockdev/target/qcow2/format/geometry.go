package format

import (
	"fmt"
	"strings"
)

// subclusters of a cluster whose L2 entry is extended.
const subclusters = 32

// ClusterSize in bytes.
func (g *Geometry) ClusterSize() int64 { return 1 << g.ClusterBits }

// GrainSize is the smallest part of a cluster, in bytes, that the mapping knows: a cluster, or a
// subcluster.
func (g *Geometry) GrainSize() int64 {
	if g.Extended {
		return g.ClusterSize() / subclusters
	}
	return g.ClusterSize()
}

// Grains is how many of them a cluster has.
func (g *Geometry) Grains() int {
	if g.Extended {
		return subclusters
	}
	return 1
}

// EntrySize is the size in bytes of an L2 entry.
func (g *Geometry) EntrySize() int {
	if g.Extended {
		return 16
	}
	return 8
}

// L2Entries of a table.
func (g *Geometry) L2Entries() int64 { return g.ClusterSize() / int64(g.EntrySize()) }

// L1Needed is how many L1 entries the disk needs.
func (g *Geometry) L1Needed() int64 {
	clusters := (g.Size-1)>>g.ClusterBits + 1
	return (clusters-1)/g.L2Entries() + 1
}

// PerBlock is how many refcounts a refcount block has.
func (g *Geometry) PerBlock() int64 { return g.ClusterSize() * 8 >> g.RefcountBits }

// CheckTable refuses a table that is not at the start of a cluster or not in a file of fileSize bytes.
func (g *Geometry) CheckTable(what string, at uint64, length, fileSize int64) error {
	switch {
	case at == 0 && length > 0:
		return damaged("the %s has no place", what)
	case at&uint64(g.ClusterSize()-1) != 0:
		return damaged("the %s is at %d, which is no multiple of the cluster size %d", what, at, g.ClusterSize())
	case at > maxOffset || int64(at) > fileSize || length > fileSize-int64(at):
		return damaged("the %s, %d bytes at %d, lies beyond the file's end at %d", what, length, at, fileSize)
	}
	return nil
}

func listBits(bits uint64, names map[uint8]string) string {
	var list []string
	for i := range uint8(64) {
		if bits&(1<<i) == 0 {
			continue
		}
		if name := names[i]; name != "" {
			list = append(list, fmt.Sprintf("%d (%q)", i, name))
		} else {
			list = append(list, fmt.Sprint(i))
		}
	}
	return strings.Join(list, ", ")
}
