package refs

import (
	"slices"

	"varve/objstore/internal/merkle"
)

// Roots finds by its hash what a settled root belongs to: the heads of volumes, and settled
// snapshots, but for scratch volumes, whose roots are not offered. However many snapshots there
// are, a look-up visits one entry.
type Roots map[merkle.Hash]*RootUse

// RootUse is a root that something refers to.
type RootUse struct {
	Size    int64 // of the image, bytes
	Logical int64 // bytes that are not holes
	Holders []Holder
}

// Holder is a volume that refers to a root.
type Holder struct {
	Volume *Volume
	names  int // how many of its names do: itself and its snapshots
}

func (x Roots) add(root merkle.Hash, v *Volume, size, logical int64) {
	if v.Scratch() {
		return
	}
	u := x[root]
	if u == nil {
		u = &RootUse{Size: size}
		x[root] = u
	}
	u.Logical = logical
	if i := u.holder(v); i >= 0 {
		u.Holders[i].names++
		return
	}
	u.Holders = append(u.Holders, Holder{v, 1})
}

func (x Roots) remove(root merkle.Hash, v *Volume) {
	u := x[root]
	if u == nil {
		return
	}
	i := u.holder(v)
	if i < 0 {
		return
	}
	if u.Holders[i].names--; u.Holders[i].names == 0 {
		u.Holders = slices.Delete(u.Holders, i, i+1)
	}
	if len(u.Holders) == 0 {
		delete(x, root)
	}
}

func (u *RootUse) holder(v *Volume) int {
	return slices.IndexFunc(u.Holders, func(h Holder) bool { return h.Volume == v })
}
