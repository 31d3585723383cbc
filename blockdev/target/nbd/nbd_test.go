package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/nbd/nbdtest"
	"varve/blockdev/target/nbd/wire"
	"varve/blockdev/target/targettest"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

var be = binary.BigEndian

func open(t *testing.T, uri string, o Options) *Target {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	o.backoff = 2 * time.Millisecond
	d, err := Open(t.Context(), uri, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// The suite runs against servers of all kinds. Its failing secondaries are lost connections here.
func TestConformance(t *testing.T) {
	for _, k := range []struct {
		name   string
		server nbdtest.Options
		o      Options
		whole  bool
	}{
		{"simple", nbdtest.Options{}, Options{}, false},
		{"structured", nbdtest.Options{Structured: true, Mixed: true}, Options{Connections: 3}, true},
		{"copied", nbdtest.Options{Structured: true, Mixed: true}, Options{noZC: true}, false},
		{"flush", nbdtest.Options{Without: wire.CanFUA | wire.CanTrim | wire.CanMulti, NoGo: true, Mixed: true}, Options{}, false},
	} {
		t.Run(k.name, func(t *testing.T) {
			openOne := func(t *testing.T) target.Target { return open(t, nbdtest.Start(t, k.server).URI(), k.o) }
			if k.whole {
				targettest.Test(t, targettest.Options{Open: openOne})
				return
			}
			d := openOne(t)
			targettest.Model(t, queuetest.Start(t, queuetest.Options{NewPart: d.NewPart}), targettest.ModelOptions{Limits: d.Limits()})
		})
	}
}

func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	nbdtest.Start(t, nbdtest.Options{Structured: true, Mixed: true, Unix: path})
	d := open(t, "nbd+unix:///?socket="+path, Options{})
	for _, l := range queuetest.Lendings {
		targettest.Model(t, queuetest.Start(t, queuetest.Options{Lending: l, NewPart: d.NewPart}), targettest.ModelOptions{Limits: d.Limits()})
	}
}

// RECV into the request's buffer: through memory that is mapped or copied, on every kernel.
func TestReceiveInPlace(t *testing.T) {
	s := nbdtest.Start(t, nbdtest.Options{Structured: true, Mixed: true})
	for _, l := range []queuetest.Lending{queuetest.Mapped, queuetest.Copied} {
		d := open(t, s.URI(), Options{Connections: 2})
		d.recvs = true
		var f queuetest.Faults
		dev := queuetest.Start(t, queuetest.Options{Lending: l, NewPart: d.NewPart, Faults: &f})
		m := targettest.ModelOptions{Limits: d.Limits()}
		targettest.Model(t, dev, m)
		f.Set(0.2, 0.02)
		targettest.Model(t, dev, m)
		if d.Lost() == 0 {
			t.Error("no connection was lost")
		}
	}
}

// A server that answers wrongly loses its connection; the request is sent again and succeeds.
func TestHostile(t *testing.T) {
	huge := func(r wire.Request, kind uint16, n uint32) []byte {
		p := nbdtest.Chunk(r.Cookie, true, kind, nil)
		be.PutUint32(p[16:], n)
		return append(p, make([]byte, 64)...)
	}
	at := func(off uint64, p ...byte) []byte { return append(be.AppendUint64(nil, off), p...) }
	for name, spoil := range map[string]func(r wire.Request, p []byte) ([]byte, error){
		"closed":         func(wire.Request, []byte) ([]byte, error) { return nil, errors.New("closed") },
		"short":          func(_ wire.Request, p []byte) ([]byte, error) { return append(p[:len(p)-3], 1, 2), errLater },
		"surplus":        func(_ wire.Request, p []byte) ([]byte, error) { return append(p, 1, 2, 3), errLater },
		"twice":          func(_ wire.Request, p []byte) ([]byte, error) { return append(p, p...), nil },
		"unknown cookie": func(r wire.Request, _ []byte) ([]byte, error) { return nbdtest.SimpleReply(r.Cookie+1<<16, 0), nil },
		"unknown tag":    func(r wire.Request, _ []byte) ([]byte, error) { return nbdtest.SimpleReply(r.Cookie|0xffff, 0), nil },
		"cookie 0":       func(wire.Request, []byte) ([]byte, error) { return nbdtest.SimpleReply(0, 0), nil },
		"no magic":       func(wire.Request, []byte) ([]byte, error) { return make([]byte, 4096), nil },
		"huge data":      func(r wire.Request, _ []byte) ([]byte, error) { return huge(r, 1, 1<<32-1), nil },
		"huge error":     func(r wire.Request, _ []byte) ([]byte, error) { return huge(r, 1<<15+1, 1<<32-1), nil },
		"huge status":    func(r wire.Request, _ []byte) ([]byte, error) { return huge(r, 5, 1<<32-4), nil },
		"unknown chunk":  func(r wire.Request, _ []byte) ([]byte, error) { return huge(r, 77, 0), nil },
		"empty data": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, false, 1, at(r.Off)), nil
		},
		"bytes before": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, true, 1, at(r.Off-1, 1, 2)), nil
		},
		"bytes behind": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, true, 1, at(r.Off+uint64(r.Len)-1, 1, 2)), nil
		},
		"bytes far away": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, true, 1, at(1<<64-1, 1, 2)), nil
		},
		"hole over the end": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, true, 2, append(at(r.Off), 255, 255, 255, 255)), nil
		},
		"a part is missing": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, true, 1, at(r.Off, 1, 2)), nil
		},
		"nothing": func(r wire.Request, _ []byte) ([]byte, error) { return nbdtest.Chunk(r.Cookie, true, 0, nil), nil },
		"simple read": func(r wire.Request, p []byte) ([]byte, error) {
			return append(nbdtest.SimpleReply(r.Cookie, 0), p...), nil
		},
		"error without end": func(r wire.Request, _ []byte) ([]byte, error) {
			var p []byte
			for range 20000 {
				p = append(p, nbdtest.Chunk(r.Cookie, false, 1<<15+1, []byte{0, 0, 0, 5, 0, 0})...)
			}
			return p, nil
		},
		"error 0": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, true, 1<<15+1, make([]byte, 6)), nil
		},
		"long text": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, true, 1<<15+1, []byte{0, 0, 0, 5, 255, 0}), nil
		},
		"shutting down": func(r wire.Request, _ []byte) ([]byte, error) {
			return nbdtest.Chunk(r.Cookie, true, 1<<15+1, []byte{0, 0, 0, 108, 0, 0}), nil
		},
		"the same bytes again and again": func(r wire.Request, _ []byte) ([]byte, error) {
			p := nbdtest.Chunk(r.Cookie, false, 1, at(r.Off, 1))
			for range 13 {
				p = append(p, p...)
			}
			return p, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.Start(t, nbdtest.Options{Structured: true})
			for i := range s.Disk {
				s.Disk[i] = byte(i>>9) | 1
			}
			d := open(t, s.URI(), Options{RequestTimeout: 500 * time.Millisecond})
			dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
			n := 0
			s.SetSpoil(func(r wire.Request, p []byte) ([]byte, error) { // the first read
				if n++; n > 1 {
					return p, nil
				}
				p, err := spoil(r, p)
				if errors.Is(err, errLater) {
					return p, nil
				}
				return p, err
			})
			for i := range 6 {
				got := make([]byte, 32<<10)
				off := int64(i+1) << 15
				if err := dev.Do(&queuetest.IO{Op: queue.OpRead, Off: off, Data: got}); err != nil {
					t.Fatal(err)
				}
				for j, b := range got {
					if want := byte((int(off)+j)>>9) | 1; b != want {
						t.Fatalf("byte %d is %#x, want %#x", int(off)+j, b, want)
					}
				}
			}
			if d.Lost() == 0 {
				t.Error("the connection was kept")
			}
		})
	}
}

// errLater marks a reply after which the server goes on.
var errLater = errors.New("later")

// A lost server fails requests with EIO after the timeout, new ones at once, and serves again when it
// is back.
func TestTimeout(t *testing.T) {
	s := nbdtest.Start(t, nbdtest.Options{})
	d := open(t, s.URI(), Options{Timeout: 500 * time.Millisecond})
	dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
	read := func() error { return dev.Do(&queuetest.IO{Op: queue.OpRead, Data: make([]byte, 4096)}) }
	if err := read(); err != nil {
		t.Fatal(err)
	}
	s.Refuse(true)
	s.Kill()
	begun := time.Now()
	for i := range 2 {
		err := read()
		var status *queue.StatusError
		if !errors.As(err, &status) || status.Errno != unix.EIO {
			t.Errorf("read %d without a server: %v, want EIO", i, err)
		}
		if took := time.Since(begun); i == 0 && took < 400*time.Millisecond {
			t.Errorf("it failed after %v", took)
		}
	}
	s.Refuse(false)
	for end := time.Now().Add(20 * time.Second); read() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come back")
		}
	}
}

// A request that is not answered loses its connection, whether the server answers others or not. It is
// sent again, and fails if it is not answered then either.
func TestRequestTimeout(t *testing.T) {
	for name, k := range map[string]struct {
		silent  int           // how often the write is not answered
		busy    bool          // reads are answered meanwhile
		timeout time.Duration // after which it fails once it loses another connection
		want    unix.Errno
	}{
		"silence":         {1, false, time.Hour, 0},
		"others answered": {1, true, time.Hour, 0},
		"never answered":  {1 << 30, true, time.Second, unix.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.Start(t, nbdtest.Options{})
			d := open(t, s.URI(), Options{Timeout: k.timeout, RequestTimeout: 200 * time.Millisecond})
			dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
			n := 0
			s.SetSpoil(func(r wire.Request, p []byte) ([]byte, error) {
				if r.Type == wire.Write {
					if n++; n <= k.silent {
						return nil, nil
					}
				}
				return p, nil
			})
			done := make(chan struct{})
			var reads sync.WaitGroup
			if k.busy {
				reads.Go(func() {
					for {
						select {
						case <-done:
							return
						case <-time.After(time.Millisecond):
							// What is under way when the connection is lost may be late, on a slow machine.
							_ = dev.Do(&queuetest.IO{Op: queue.OpRead, Off: 8192, Data: make([]byte, 512)})
						}
					}
				})
			}
			err := dev.Do(&queuetest.IO{Op: queue.OpWrite, Data: make([]byte, 4096)})
			close(done)
			reads.Wait()
			var status *queue.StatusError
			if failed := errors.As(err, &status) && status.Errno == k.want; k.want == 0 && err != nil || k.want != 0 && !failed {
				t.Errorf("%v, want %v", err, k.want)
			}
			if d.Lost() == 0 {
				t.Error("the connection was kept")
			}
		})
	}
}

// The server's errors are the requests'.
func TestErrors(t *testing.T) {
	for _, structured := range []bool{false, true} {
		s := nbdtest.Start(t, nbdtest.Options{Structured: structured})
		d := open(t, s.URI(), Options{})
		dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
		for code, want := range map[uint32]unix.Errno{5: unix.EIO, 28: unix.ENOSPC, 95: unix.EOPNOTSUPP, 4711: unix.EIO} {
			s.SetSpoil(func(r wire.Request, _ []byte) ([]byte, error) {
				if structured {
					return nbdtest.Chunk(r.Cookie, true, 1<<15+1, append(be.AppendUint32(nil, code), 0, 2, 'n', 'o')), nil
				}
				return nbdtest.SimpleReply(r.Cookie, code), nil
			})
			for _, io := range []queuetest.IO{{Op: queue.OpRead, Data: make([]byte, 4096)}, {Op: queue.OpWrite, Data: make([]byte, 4096)}, {Op: queue.OpFlush}} {
				if err := dev.Do(&io); !errors.Is(err, want) {
					t.Errorf("%v, error %d: %v, want %v", io.Op, code, err, want)
				}
			}
		}
		if d.Lost() != 0 {
			t.Errorf("%d connections were lost", d.Lost())
		}
	}
}

// Opening refuses what can be no disk, and names why.
func TestRefusals(t *testing.T) {
	for want, k := range map[string]struct {
		server nbdtest.Options
		path   string
		o      Options
	}{
		"export is read-only":         {nbdtest.Options{Flags: wire.ReadOnly}, "", Options{}},
		"the server allows one":       {nbdtest.Options{Without: wire.CanMulti}, "", Options{Connections: 2}},
		"wants blocks of 65536 bytes": {nbdtest.Options{MinBlock: 65536}, "", Options{}},
		"wants at least 4096":         {nbdtest.Options{MinBlock: 4096}, "", Options{BlockSize: 512}},
		`it has "the default"`:        {nbdtest.Options{}, "/disk", Options{}},
		"size 1000":                   {nbdtest.Options{Size: 1000}, "", Options{}},
	} {
		s := nbdtest.Start(t, k.server)
		_, err := Open(t.Context(), s.URI()+k.path, k.o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func ExampleParseURI() {
	for _, s := range []string{"nbd://[::1]/a%20b", "nbds+unix:///?socket=/run/s", "nbd://host:1/x?y=z", "nbd+unix:///x", "http://x"} {
		a, err := ParseURI(s)
		fmt.Println(a.Network, a.Host, a.Export, a.TLS, err)
	}
	// Output:
	// tcp [::1]:10809 a b false <nil>
	// unix /run/s  true <nil>
	//    false invalid: NBD address "nbd://host:1/x?y=z": parameter "y"; use socket, tls-certificates or tls-hostname
	//    false invalid: NBD address "nbd+unix:///x": use nbd+unix:///EXPORT?socket=PATH
	//    false invalid: NBD address "http://x": scheme "http"; use nbd, nbds, nbd+unix or nbds+unix
}
