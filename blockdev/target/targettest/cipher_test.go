package targettest_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/targettest"
	"varve/uring"
	"varve/uring/queue"
)

// cipher is a disk each second cluster of which is encrypted in its file, as clusters of a qcow2
// image may be compressed or encrypted: their bytes go through memory, those of the others do not.
type cipher struct{ fd int }

const cluster = 4096

func (c *cipher) Limits() target.Limits {
	return target.Limits{Size: size, BlockSize: 4096, Cache: true, DMAAlign: 512}
}

func (c *cipher) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return &cipherHandler{cipher: c, mem: aligned(256 << 10)} }}, nil
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return b // as long as the test runs
}

type cipherHandler struct {
	*cipher
	mem []byte // encrypted clusters, where the request has them
}

func encrypted(off int64) bool { return off/cluster%2 == 1 }

func scramble(p []byte) {
	for i := range p {
		p[i] ^= byte(0x5a + i)
	}
}

func (h *cipherHandler) Start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpFlush:
		r.Add(uring.Secondary{Op: uring.SecondaryFsync, FD: int32(h.fd)})
		return queue.Submit, nil
	case queue.OpRead, queue.OpWrite:
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
	if r.Op == queue.OpWrite && r.Len > cluster {
		return queue.Handoff, nil // it takes a while
	}
	return h.plan(r)
}

// plan adds a piece for each cluster. Encrypted ones are read into memory, and written from there.
func (h *cipherHandler) plan(r *queue.Request) (queue.Action, error) {
	for off := 0; off < r.Len; off += cluster {
		if !encrypted(r.Off + int64(off)) {
			r.Secondary(h.fd, r.Off+int64(off), off, cluster)
			continue
		}
		p := h.mem[off : off+cluster]
		s := uring.Secondary{Op: uring.SecondaryRead, FD: int32(h.fd), FileOff: uint64(r.Off) + uint64(off), Mem: p}
		if r.Op == queue.OpWrite {
			s.Op = uring.SecondaryWrite
			if err := r.Take(p, off); err != nil {
				return queue.Answer, err
			}
			scramble(p)
		}
		r.Add(s)
	}
	if r.FUA {
		r.SetFlags(unix.RWF_DSYNC)
	}
	return queue.Submit, nil
}

func (h *cipherHandler) Work(_ context.Context, r *queue.Request) (queue.Action, error) {
	return h.plan(r)
}

func (h *cipherHandler) Finish(r *queue.Request, err error) (queue.Action, error) {
	if err != nil || r.Op != queue.OpRead {
		return queue.Answer, err
	}
	for off := 0; off < r.Len; off += cluster {
		if encrypted(r.Off + int64(off)) {
			p := h.mem[off : off+cluster]
			scramble(p)
			if err := r.Fill(p, off); err != nil {
				return queue.Answer, err
			}
		}
	}
	return queue.Answer, nil
}

func (h *cipherHandler) Drop(*queue.Request) {}

func TestCipher(t *testing.T) {
	targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target { return &cipher{fd: newFile(t)} }})
}
