package lincheck

import (
	"errors"
	"math/rand/v2"
)

// Work describes the random requests of a client.
type Work struct {
	// From and To are the bytes that the client works on, multiples of a sector.
	From, To int64
	// Largest request in sectors.
	Largest int
	// Ragged requests begin and end inside of sectors; discards too if RaggedZero.
	Ragged, RaggedZero bool
	// Retry is asked about an error: it may mend what the client works on. An error of its own ends
	// the work.
	Retry func(error) error
}

// ErrStop from Retry ends the work.
var ErrStop = errors.New("stop")

// Do does n requests at random, or fewer if stop is closed.
func (w Work) Do(c *Client, r *rand.Rand, n int, stop <-chan struct{}) error {
	for range n {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := w.one(c, r); err != nil {
			if w.Retry != nil {
				err = w.Retry(err)
			}
			if errors.Is(err, ErrStop) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (w Work) one(c *Client, r *rand.Rand) error {
	switch k := r.IntN(20); {
	case k < 9:
		return c.Read(w.span(r, w.Ragged && r.IntN(2) == 0))
	case k < 16:
		return c.Write(w.span(r, w.Ragged && r.IntN(2) == 0))
	case k < 19:
		return c.Zero(w.span(r, w.RaggedZero && r.IntN(2) == 0))
	default:
		return c.Flush()
	}
}

// span picks a range, most often a small one.
func (w Work) span(r *rand.Rand, ragged bool) (off, length int64) {
	unit := int64(SectorSize)
	if ragged {
		unit = CellSize
	}
	n := 1 + r.Int64N(1+r.Int64N(int64(w.Largest)))
	length = n * SectorSize
	if ragged {
		length -= r.Int64N(cells) * unit
	}
	length = min(length, w.To-w.From)
	off = w.From + r.Int64N((w.To-w.From-length)/unit+1)*unit
	return off, length
}
