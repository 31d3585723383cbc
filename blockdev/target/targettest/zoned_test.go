package targettest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// zoned is a disk of zones that are appended to.
type zoned struct {
	fd int
	mu sync.Mutex
	wp [size / zoneSize]int64 // the write pointer of each zone, in bytes from the start of the disk
}

const zoneSize = 1 << 20

func newZoned(t *testing.T) *zoned {
	z := &zoned{fd: newFile(t)}
	for i := range z.wp {
		z.wp[i] = int64(i) * zoneSize
	}
	return z
}

func (z *zoned) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return zonedHandler{z} }, FDs: []int{z.fd}}, nil
}

// reserve moves a zone's write pointer; ENOSPC when the zone is full.
func (z *zoned) reserve(zone, n int64) (int64, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	at := z.wp[zone]
	if at+n > (zone+1)*zoneSize {
		return 0, unix.ENOSPC
	}
	z.wp[zone] += n
	return at, nil
}

type zonedHandler struct{ *zoned }

func (h zonedHandler) Start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpZoneAppend:
		at, err := h.reserve(r.Off/zoneSize, int64(r.Len))
		if err != nil {
			return queue.Answer, err
		}
		r.Appended = at
		r.Secondary(h.fd, at, 0, r.Len)
		return queue.Submit, nil
	case queue.OpRead:
		r.Secondary(h.fd, r.Off, 0, r.Len)
		return queue.Submit, nil
	case queue.OpZoneReport:
		return queue.Answer, h.report(r)
	case queue.OpZoneReset:
		h.mu.Lock()
		h.wp[r.Off/zoneSize] = r.Off
		h.mu.Unlock()
		return queue.Answer, nil
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

// report answers with the write pointers of the zones from r.Off on, as far as the buffer goes, and
// zeroes after them.
func (h zonedHandler) report(r *queue.Request) error {
	b := make([]byte, r.Len)
	h.mu.Lock()
	for i, wp := range h.wp[r.Off/zoneSize:] {
		if 8*i+8 <= len(b) {
			binary.LittleEndian.PutUint64(b[8*i:], uint64(wp))
		}
	}
	h.mu.Unlock()
	return r.Fill(b, 0)
}

func (zonedHandler) Finish(_ *queue.Request, err error) (queue.Action, error) {
	return queue.Answer, err
}

func (zonedHandler) Work(context.Context, *queue.Request) (queue.Action, error) {
	return queue.Answer, queue.ErrInvalid
}

func (zonedHandler) Drop(*queue.Request) {}

// Appends from many sides land side by side, where each of them is told; a report says how far the
// zones are.
func TestZoned(t *testing.T) {
	for _, lending := range queuetest.Lendings {
		t.Run(string(lending), func(t *testing.T) {
			d := queuetest.Start(t, queuetest.Options{Lending: lending, NewPart: newZoned(t).NewPart})
			const clients, appends, n = 4, 16, 16 << 10
			var mu sync.Mutex
			at := map[int64][]byte{} // where -> what
			var wg sync.WaitGroup
			for c := range clients {
				wg.Go(func() {
					for i := range appends {
						io := queuetest.IO{Op: queue.OpZoneAppend, Off: zoneSize, Data: bytes.Repeat([]byte{byte(c*appends + i)}, n)}
						if err := d.Do(&io); err != nil {
							t.Error(err)
						}
						mu.Lock()
						at[io.Appended] = io.Data
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			for i := range int64(clients * appends) {
				off := zoneSize + i*n
				got := make([]byte, n)
				if err := d.Do(&queuetest.IO{Op: queue.OpRead, Off: off, Data: got}); err != nil || !bytes.Equal(got, at[off]) {
					t.Fatalf("at %d: %v, or not what was appended there", off, err)
				}
			}
			if err := d.Do(&queuetest.IO{Op: queue.OpZoneAppend, Off: zoneSize, Data: make([]byte, 512)}); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("an append to a full zone: %v, want ENOSPC", err)
			}
			report := make([]byte, 4096)
			if err := d.Do(&queuetest.IO{Op: queue.OpZoneReport, Data: report}); err != nil {
				t.Fatal(err)
			}
			for i, want := range []uint64{0, 2 * zoneSize, 2 * zoneSize, 3 * zoneSize, 0} {
				if got := binary.LittleEndian.Uint64(report[8*i:]); got != want {
					t.Errorf("zone %d: write pointer %d, want %d", i, got, want)
				}
			}
			if err := d.Do(&queuetest.IO{Op: queue.OpZoneReset, Off: zoneSize, Len: zoneSize}); err != nil {
				t.Error(err)
			}
			io := queuetest.IO{Op: queue.OpZoneAppend, Off: zoneSize, Data: make([]byte, 512)}
			if err := d.Do(&io); err != nil || io.Appended != zoneSize {
				t.Errorf("an append after the reset: at %d, %v", io.Appended, err)
			}
		})
	}
}
