package objstore

import (
	"context"
	"slices"
	"strings"
)

func init() { operations = append(operations, operation{"diff", 3, (*world).opDiff}) }

// opDiff compares two images, and holds the changes against a comparison of their bytes.
func (w *world) opDiff() {
	from, before, ok := w.anyImage()
	if !ok {
		return
	}
	to, after, ok := w.anyImage()
	if !ok {
		return
	}
	ctx, cancel := ctxTimeout()
	defer cancel()
	w.diff(ctx, from, to, before, after)
}

// anyImage picks a volume or a snapshot whose content is known.
func (w *world) anyImage() (ImageName, []string, bool) {
	if v, name := w.anySnap(); v != nil && w.pick(2, "snapshot or volume") == 0 {
		return ImageName{v.name, name}, v.snaps[name].content, true
	}
	v := w.anyVolume()
	if v == nil || len(v.unsure) > 0 {
		return ImageName{}, nil, false
	}
	return ImageName{Volume: v.name}, slices.Clone(v.cur), true
}

func (w *world) diff(ctx context.Context, from, to ImageName, before, after []string) {
	var got []Change
	total, err := w.s.Diff(ctx, from, to, func(i DiffImages) error {
		sizes := [2]int64{int64(len(before)) * SectorSize, int64(len(after)) * SectorSize}
		if i.From.Size != sizes[0] || i.To.Size != sizes[1] || i.ChunkSize != w.chunkSize {
			w.failf("diff of %v and %v: %+v", from, to, i)
		}
		if a, b := modelRoot(before, w.chunkSize), modelRoot(after, w.chunkSize); i.From.Root != a || i.To.Root != b {
			w.failf("diff of %v and %v is of the roots %s and %s, want %s and %s", from, to, i.From.Root, i.To.Root, a, b)
		}
		return nil
	}, func(c Change) error { got = append(got, c); return nil })
	w.note("diff %v..%v: %d changes, %v", from, to, len(got), err)
	if !w.answered(err, "diff") {
		return
	}
	if want := modelDiff(before, after, w.chunkSize); !slices.Equal(got, want) {
		w.failf("diff of %v and %v: %v, want %v", from, to, got, want)
	}
	sum := DiffTotal{Ranges: int64(len(got))}
	for _, c := range got {
		sum.Bytes += c.Len
		if c.Zero {
			sum.Zero += c.Len
		}
	}
	if total != sum {
		w.failf("diff of %v and %v: sums %+v of %v", from, to, total, got)
	}
}

// modelDiff compares images byte by byte.
func modelDiff(before, after []string, chunkSize int) []Change {
	per := chunkSize / SectorSize
	chunk := func(content []string, i int) string {
		var b strings.Builder
		for at := i; at < i+per; at++ {
			if at < len(content) && content[at] != "" {
				b.WriteString(content[at])
			} else {
				b.WriteString(zeroSector)
			}
		}
		return b.String()
	}
	zeroes := strings.Repeat(zeroSector, per)
	var out []Change
	for i := 0; i < len(after); i += per {
		a, b := chunk(before, i), chunk(after, i)
		if a == b {
			continue
		}
		c := Change{int64(i) * SectorSize, int64(min(per, len(after)-i)) * SectorSize, b == zeroes}
		if n := len(out) - 1; n >= 0 && out[n].Off+out[n].Len == c.Off && out[n].Zero == c.Zero {
			out[n].Len += c.Len
			continue
		}
		out = append(out, c)
	}
	return out
}
