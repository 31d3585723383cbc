package wire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"varve/blockdev/target/nbd/nbdtest"
	"varve/blockdev/target/nbd/wire"
)

// The bytes of a request are those of the protocol.
func TestRequest(t *testing.T) {
	r := wire.Request{Flags: wire.FlagFUA, Type: wire.Write, Cookie: 0x1122334455667788, Off: 0x10000, Len: 4096}
	p := make([]byte, wire.RequestSize)
	r.Put(p)
	if got := hex.EncodeToString(p); got != "25609513"+"0001"+"0001"+"1122334455667788"+"0000000000010000"+"00001000" {
		t.Error(got)
	}
	if back, err := wire.ParseRequest(p); err != nil || back != r {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestReply(t *testing.T) {
	at := func(off byte, p ...byte) []byte { return append([]byte{0, 0, 0, 0, 0, 0, 0, off}, p...) }
	for _, k := range []struct {
		p    []byte
		want wire.Reply
	}{
		{nbdtest.SimpleReply(7, 5), wire.Reply{Kind: wire.Simple, Done: true, Cookie: 7, Errno: 5}},
		{nbdtest.Chunk(7, true, 0, nil), wire.Reply{Kind: wire.None, Done: true, Cookie: 7}},
		{nbdtest.Chunk(7, false, 1, at(9, 1, 2, 3)), wire.Reply{Kind: wire.Data, Cookie: 7, Off: 9, Len: 3}},
		{nbdtest.Chunk(7, true, 2, at(9, 0, 0, 2, 0)), wire.Reply{Kind: wire.Hole, Done: true, Cookie: 7, Off: 9, Len: 512}},
		{nbdtest.Chunk(7, true, 1<<15+1, []byte{0, 0, 0, 28, 0, 2, 'n', 'o'}), wire.Reply{Kind: wire.Failed, Done: true, Cookie: 7, Errno: 28, Text: []byte("no")}},
		{
			nbdtest.Chunk(7, true, 1<<15+2, append([]byte{0, 0, 0, 5, 0, 0}, at(9)...)),
			wire.Reply{Kind: wire.Failed, Done: true, Cookie: 7, Errno: 5, Text: []byte{}},
		},
	} {
		got, n, err := parse(k.p, true)
		if err != nil || got.Kind != k.want.Kind || got.Done != k.want.Done || got.Cookie != 7 || got.Errno != k.want.Errno ||
			got.Off != k.want.Off || got.Len != k.want.Len || !bytes.Equal(got.Text, k.want.Text) {
			t.Errorf("%x: %+v after %d bytes, %v; want %+v", k.p, got, n, err, k.want)
		}
	}
	p := nbdtest.Chunk(7, true, 5, []byte{0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 4, 0, 0, 0, 0, 0})
	r, _, err := parse(p, true)
	if err != nil || r.Context != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	list, err := r.Extents()
	if err != nil || len(list) != 2 || list[0] != (wire.Extent{Len: 512, Flags: wire.StateHole | wire.StateZero}) || list[1].Len != 1024 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, _, err := parse(p, false); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("a structured reply that was not agreed on: %v", err)
	}
}

// parse takes as many bytes as are asked for.
func parse(p []byte, structured bool) (wire.Reply, int, error) {
	for have := 0; ; {
		n, err := wire.ReplyLen(p[:have], structured)
		switch {
		case err != nil:
			return wire.Reply{}, have, err
		case n == have:
			r, err := wire.ParseReply(p[:have])
			return r, have, err
		case n < have || n > wire.MaxReply:
			panic("a length that is wrong")
		case n > len(p):
			return wire.Reply{}, have, io.ErrUnexpectedEOF
		}
		have = n
	}
}

func FuzzReply(f *testing.F) {
	f.Add(nbdtest.SimpleReply(1, 0), true)
	f.Add(nbdtest.Pieces(1, 512, make([]byte, 9000)), true)
	f.Add(nbdtest.Chunk(1, true, 5, make([]byte, 12)), true)
	f.Add(nbdtest.Chunk(1, true, 1<<15+2, make([]byte, 14)), true)
	f.Fuzz(func(t *testing.T, p []byte, structured bool) {
		r, n, err := parse(p, structured)
		if err != nil {
			return
		}
		if len(r.Text) > n || (r.Kind == wire.Data || r.Kind == wire.Hole) && r.Len == 0 || r.Kind == wire.Failed && r.Errno == 0 {
			t.Errorf("%x: %+v", p[:n], r)
		}
		if r.Kind == wire.Status {
			_, _ = r.Extents()
		}
	})
}

// stream is a server that has said all that it will say.
type stream struct{ io.Reader }

func (stream) Write(p []byte) (int, error) { return len(p), nil }

// greeting is the handshake of a server, as it was recorded.
func greeting(t testing.TB) []byte {
	s := nbdtest.Start(t, nbdtest.Options{Structured: true})
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var said bytes.Buffer
	rw := struct {
		io.Reader
		io.Writer
	}{io.TeeReader(c, &said), c}
	e, err := wire.Handshake(rw, wire.Options{})
	if err != nil || e.Size != 1<<20 || !e.Structured || !e.Extents || e.Allocation != 7 || !e.Has(wire.CanZero) {
		t.Fatalf("%+v, %v", e, err)
	}
	return said.Bytes()
}

// A handshake that ends anywhere, or has any byte changed, is an error or an export that a disk may be.
func TestDamagedHandshake(t *testing.T) {
	good := greeting(t)
	for i := range good {
		if _, err := wire.Handshake(stream{bytes.NewReader(good[:i])}, wire.Options{}); err == nil {
			t.Errorf("it succeeds with %d of %d bytes", i, len(good))
		}
		p := bytes.Clone(good)
		p[i] ^= 0xff
		checkHandshake(t, p)
	}
}

func TestOtherServers(t *testing.T) {
	for said, want := range map[string]string{
		"SSH-2.0-OpenSSH_9.9 and so on":            "no NBD server answers",
		"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53": "oldstyle",
		"NBDMAGICIHAVEOPT\x00\x00":                 "fixed newstyle",
		"":                                         "unexpected EOF",
	} {
		_, err := wire.Handshake(stream{strings.NewReader(said)}, wire.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", said, err, want)
		}
	}
}

func checkHandshake(t *testing.T, p []byte) {
	e, err := wire.Handshake(stream{bytes.NewReader(p)}, wire.Options{})
	if err == nil && (e.MinBlock == 0 || e.MaxBlock < e.MinBlock || int64(e.Size) < 0) {
		t.Errorf("%x: %+v", p, e)
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add(greeting(f))
	f.Fuzz(func(t *testing.T, p []byte) { checkHandshake(t, p) })
}
