package blockdev

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/targettest"
	"varve/uring"
	"varve/uring/queue"
)

// scripted is a disk whose requests are served by functions of a test.
type scripted struct {
	size   int64
	start  func(*queue.Queue, *queue.Request) (queue.Action, error)
	finish func(*queue.Request, error) error
	raw    *rawEntries
}

func (s *scripted) Limits() target.Limits {
	return target.Limits{Size: s.size, Cache: true, DMAAlign: 512}
}

func (s *scripted) NewPart(q *queue.Queue) (queue.Part, error) {
	p := queue.Handlers{New: func() queue.Handler { return &scriptedHandler{s, q} }}
	if s.raw != nil {
		s.raw.q = q
		return &rawPart{p, s.raw}, nil
	}
	return p, nil
}

type scriptedHandler struct {
	*scripted
	q *queue.Queue
}

func (h *scriptedHandler) Start(r *queue.Request) (queue.Action, error) { return h.start(h.q, r) }

func (h *scriptedHandler) Finish(r *queue.Request, err error) (queue.Action, error) {
	if h.finish != nil {
		err = h.finish(r, err)
	}
	return queue.Answer, err
}

func (h *scriptedHandler) Work(context.Context, *queue.Request) (queue.Action, error) {
	return queue.Answer, queue.ErrInvalid
}

func (h *scriptedHandler) Drop(*queue.Request) {}

func openFile(t *testing.T, size int64, flags int) int {
	t.Helper()
	f, err := os.OpenFile(loopFile(t, size), os.O_RDWR|flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// The secondaries of a request are parts of its buffer, by offset and length, in any order, of several
// files, and more than are in flight together.
func TestFusedSubBuffers(t *testing.T) {
	const size, unit = 4 << 20, 4096
	eachMode(t, func(t *testing.T, o Options) {
		files := [2]int{openFile(t, size, unix.O_DIRECT), openFile(t, size, 0)}
		rnd := rand.New(rand.NewPCG(11, 12))
		d := startDevice(t, &scripted{size: size, start: func(_ *queue.Queue, r *queue.Request) (queue.Action, error) {
			if r.Op == queue.OpFlush {
				return queue.Answer, nil
			}
			var pieces [][2]int
			for off := 0; off < r.Len; { // one or more in each unit, whose file follows from its place
				n := min(r.Len-off, unit-int((r.Off+int64(off))%unit), 512*(1+rnd.IntN(unit/512)))
				pieces = append(pieces, [2]int{off, n})
				off += n
			}
			for _, i := range rnd.Perm(len(pieces)) {
				at := r.Off + int64(pieces[i][0])
				r.Secondary(files[at/unit%2], at, pieces[i][0], pieces[i][1])
			}
			return queue.Submit, nil
		}}, o)
		f := openRealDisk(t, d.Path())
		targettest.Model(t, f, targettest.ModelOptions{Limits: target.Limits{Size: size, Cache: true}})
		f.plain.Close()
		f.sync.Close()
		stopDevice(t, d)
		if s := d.Stats(); s.Errors != 0 || s.Secondaries < 5*(s.Reads+s.Writes) {
			t.Errorf("stats %+v: the requests were not in many pieces", s)
		}
	})
}

// A secondary that fails, or that no request can have, fails its request, and nothing but it: the
// results of the others are known, the buffer is given back, and the next request is served.
func TestFusedFailures(t *testing.T) {
	requireUblk(t, _UBLK_F_AUTO_BUF_REG)
	for _, m := range []CopyMode{CopyZero, CopyPlain} {
		t.Run(string(m), func(t *testing.T) { testFusedFailures(t, m) })
	}
}

func testFusedFailures(t *testing.T, m CopyMode) {
	file, short := openFile(t, 1<<20, 0), openFile(t, 6144, 0)
	secondary := func(op uring.SecondaryOp, fd int, off, n uint32) uring.Secondary {
		return uring.Secondary{Op: op, FD: int32(fd), FileOff: uint64(off), BufOff: off, Len: n}
	}
	read := func(fd int, off, n uint32) uring.Secondary { return secondary(uring.SecondaryRead, fd, off, n) }
	write := func(fd int, off, n uint32) uring.Secondary { return secondary(uring.SecondaryWrite, fd, off, n) }
	for name, c := range map[string]struct {
		op   queue.Op
		secs []uring.Secondary
		want error
		bad  int // the secondary that fails; -1: none was begun
	}{
		"wrong direction":       {queue.OpRead, []uring.Secondary{write(file, 0, 8192)}, uring.ErrDirection, -1},
		"wrong direction, out":  {queue.OpWrite, []uring.Secondary{write(file, 0, 4096), read(file, 4096, 4096)}, uring.ErrDirection, -1},
		"offset past the end":   {queue.OpRead, []uring.Secondary{read(file, 8192, 512)}, uring.ErrRange, -1},
		"length past the end":   {queue.OpWrite, []uring.Secondary{write(file, 4096, 8192)}, uring.ErrRange, -1},
		"no length":             {queue.OpRead, []uring.Secondary{read(file, 0, 8192), read(file, 0, 0)}, uring.ErrRange, -1},
		"no such file":          {queue.OpWrite, []uring.Secondary{write(file, 0, 2048), write(1<<20, 2048, 4096), write(file, 6144, 2048)}, unix.EBADF, 1},
		"end of file":           {queue.OpRead, []uring.Secondary{read(file, 0, 4096), read(short, 4096, 4096)}, uring.ErrUnexpectedEOF, 1},
		"a part is left out":    {queue.OpRead, []uring.Secondary{read(file, 0, 4096), read(file, 4608, 3584)}, nil, -1},
		"nothing, on a write":   {queue.OpWrite, []uring.Secondary{write(file, 0, 7680)}, nil, -1},
		"the kernel cuts short": {queue.OpRead, []uring.Secondary{read(short, 0, 4096), read(short, 4096, 2048), read(file, 6144, 2048)}, nil, 99},
	} {
		t.Run(name, func(t *testing.T) {
			var finished error
			var errs []error
			failing := false
			d := startDevice(t, &scripted{
				size: 1 << 20,
				start: func(_ *queue.Queue, r *queue.Request) (queue.Action, error) {
					if failing = r.Op == c.op && r.Off == 0; !failing {
						if r.HasData() {
							r.Secondary(file, r.Off, 0, r.Len)
							return queue.Submit, nil
						}
						return queue.Answer, nil
					}
					for _, s := range c.secs {
						r.Add(s)
					}
					return queue.Submit, nil
				},
				finish: func(r *queue.Request, err error) error {
					if failing {
						finished = err
						for i := range c.secs {
							_, serr := r.Result(i)
							errs = append(errs, serr)
						}
					}
					return err
				},
			}, Options{CopyMode: m})
			f := openDisk(t, d.Path(), os.O_RDWR)
			do := func(op queue.Op, off int64) error {
				var err error
				if op == queue.OpRead {
					_, err = f.ReadAt(aligned(8192, 0), off)
				} else {
					_, err = f.WriteAt(aligned(8192, 0), off)
				}
				return err
			}
			succeeds := c.bad == 99
			if err := do(c.op, 0); (err == nil) != succeeds {
				t.Errorf("the request ended with %v", err)
			}
			for _, op := range []queue.Op{queue.OpRead, queue.OpWrite} {
				if err := do(op, 65536); err != nil {
					t.Errorf("a %v afterwards: %v", op, err)
				}
			}
			f.Close()
			stopDevice(t, d) // finish has run, and its results may be looked at
			if !errors.Is(finished, c.want) {
				t.Errorf("Finish got %v, want %v", finished, c.want)
			}
			for i, err := range errs {
				if bad := c.want != nil && (c.bad == -1 || i == c.bad); (err != nil) != bad {
					t.Errorf("secondary %d ended with %v", i, err)
				}
			}
		})
	}
}

// rawEntries are entries that go to the kernel as they are, with nothing checked beforehand.
type rawEntries struct {
	q       *queue.Queue
	prepare func(sqe *uring.SQE, tag uint16)
	request *queue.Request
	result  chan int32
}

type rawPart struct {
	queue.Part
	*rawEntries
}

// Complete implements queue.Completer.
func (p *rawPart) Complete(_ uint16, c uring.CQE) error {
	p.result <- c.Res
	p.request.MoveNothing()
	p.q.Resume(p.request, queue.Answer, nil)
	return nil
}

// What the checks of a fused request refuse, the driver and io_uring refuse too: a lent buffer can be
// used in its direction and within its bounds only, and while its request is here.
func TestKernelRefusesSecondaries(t *testing.T) {
	requireUblk(t, _UBLK_F_AUTO_BUF_REG)
	file := openFile(t, 1<<20, 0)
	raw := &rawEntries{result: make(chan int32, 1)}
	d := startDevice(t, &scripted{size: 1 << 20, raw: raw, start: func(q *queue.Queue, r *queue.Request) (queue.Action, error) {
		if !r.HasData() {
			return queue.Answer, nil
		}
		raw.request = r
		return queue.Hold, q.Enter(0, func(sqe *uring.SQE) { raw.prepare(sqe, r.Tag()) })
	}}, Options{CopyMode: CopyZero, Depth: 4})
	f := openDisk(t, d.Path(), os.O_RDWR)
	const fault = -int32(unix.EFAULT)
	for _, c := range []struct {
		name     string
		out      bool // the request is a write
		write    bool // the entry is
		off      uint64
		length   uint32
		otherTag bool
		want     int32
	}{
		{"read", false, false, 0, 8192, false, 8192},
		{"a part", false, false, 4096, 2048, false, 2048},
		{"write", true, true, 0, 8192, false, 8192},
		{"the last sector", true, true, 7680, 512, false, 512},
		{"write out of a read's buffer", false, true, 0, 8192, false, fault},
		{"read into a write's buffer", true, false, 0, 8192, false, fault},
		{"offset past the end", false, false, 8192, 512, false, fault},
		{"offset far past the end", true, true, 1 << 40, 512, false, fault},
		{"length past the end", false, false, 4096, 8192, false, fault},
		{"no length", false, false, 0, 0, false, 0}, // or fault, by the file: in any case nothing moves
		{"a buffer that is not lent", false, false, 0, 512, true, fault},
	} {
		raw.prepare = func(sqe *uring.SQE, tag uint16) {
			if c.otherTag {
				tag = (tag + 1) % 4
			}
			if c.write {
				sqe.WriteFixed(int32(file), tag, c.off, c.length, 0)
			} else {
				sqe.ReadFixed(int32(file), tag, c.off, c.length, 0)
			}
		}
		var err error
		if c.out {
			_, err = f.WriteAt(aligned(8192, 0), 0)
		} else {
			_, err = f.ReadAt(aligned(8192, 0), 0)
		}
		got := <-raw.result
		if c.length == 0 && got == fault {
			got = 0
		}
		if got != c.want || err != nil {
			t.Errorf("%s: the kernel says %d, want %d; the request ends with %v", c.name, got, c.want, err)
		}
	}
	f.Close()
}

// The log names a leg of a stripe that fails, and the others are served.
func TestDeviceStripe(t *testing.T) {
	requireUblk(t, 0)
	var log safeBuffer
	s := newStripe(t, 4, 4<<20)
	d := startDevice(t, s, Options{Logger: log.logger()})
	if err := os.Truncate(s.Paths()[2], 4096); err != nil {
		t.Fatal(err)
	}
	f := openDisk(t, d.Path(), os.O_RDWR)
	if _, err := f.ReadAt(aligned(16<<10, 0), 0); err == nil {
		t.Error("a read of a leg that is gone succeeds")
	}
	if _, err := f.ReadAt(aligned(8192, 0), 0); err != nil {
		t.Errorf("a read of the others: %v", err)
	}
	f.Close()
	stopDevice(t, d)
	if text := log.String(); !strings.Contains(text, "leg 2, "+s.Paths()[2]) {
		t.Errorf("the log says %s", text)
	}
}
