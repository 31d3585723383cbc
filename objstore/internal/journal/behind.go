package journal

import (
	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// Span is the sectors [From, To) of a volume.
type Span struct{ From, To uint64 }

// Behind returns the sectors that the records of a journal speak of from position n on, as far as
// they can be read, and how many records can't be: what a repair that leaves them out would lose.
// There were upto records at least.
func Behind(fs vfs.FS, id ID, n, upto int) (spans []Span, unknown int) {
	f, err := fs.Open(id.Name())
	if err != nil {
		return nil, 1
	}
	defer f.Close()
	c, err := disk.ReadContent(f)
	if err != nil {
		return nil, 1
	}
	return behind(&c, n, upto, newHeader(id, Origin{}).seed())
}

func behind(c *disk.Content, n, upto int, seed uint32) (spans []Span, unknown int) {
	blank := 0
	defer func() {
		if last := (len(c.Data) - headerBlock) / RecordSize; upto > last { // cut off
			unknown += upto - max(last, n)
		}
	}()
	for i := n; Offset(i+1) <= int64(len(c.Data)); i++ {
		off := Offset(i)
		b := c.Data[off : off+RecordSize]
		r, err := decodeRecord(b, seed+uint32(i))
		if err != nil {
			if at := c.BadFrom(off); i < upto || !disk.AllZero(b) || at >= 0 && at <= off {
				unknown, blank = unknown+1+blank, 0
			} else {
				blank++ // one that was wiped out if others follow, else never written
			}
			continue
		}
		unknown, blank = unknown+blank, 0
		if r.Type != Commit && r.Count > 0 && r.Sector <= ^uint64(0)-r.Count {
			spans = append(spans, Span{r.Sector, r.Sector + r.Count})
		}
	}
	return spans, unknown
}
