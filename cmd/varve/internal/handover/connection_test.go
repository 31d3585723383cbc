package handover

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
)

// connectionPair gives both ends of a connection.
func connectionPair(t testing.TB) (a, b *connection) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*connection{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "connection")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = &connection{socket: c.(*net.UnixConn)}
		t.Cleanup(ends[i].close)
	}
	return ends[0], ends[1]
}

func TestConnectionCarriesMessagesAndFiles(t *testing.T) {
	a, b := connectionPair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	given := protocol.Given{Notes: []string{strings.Repeat("x", 200_000)}} // more than one read
	sent := make(chan error, 1)
	go func() {
		sent <- errors.Join(a.send(time.Second, protocol.Hello{PID: 7}), a.send(time.Second, given, w))
	}()
	var hello protocol.Hello
	var got protocol.Given
	if err := errors.Join(b.receive(time.Second, &hello), b.receive(time.Second, &got), <-sent); err != nil {
		t.Fatal(err)
	}
	if hello.PID != 7 || len(got.Notes) != 1 || got.Notes[0] != given.Notes[0] || len(b.files) != 1 {
		t.Fatalf("received %+v, %d notes, %d files", hello, len(got.Notes), len(b.files))
	}
	_ = w.Close()
	if _, err := b.files[0].WriteString("through"); err != nil {
		t.Fatal(err)
	}
	if !a.alive() {
		t.Error("a connection that is open is not alive")
	}
	b.close() // and with it the file
	if text, err := io.ReadAll(r); err != nil || string(text) != "through" {
		t.Errorf("through the file: %q, %v", text, err)
	}
	if a.alive() {
		t.Error("a closed connection is alive")
	}
	if err := a.receive(time.Second, &hello); !errors.Is(err, ErrClosed) {
		t.Errorf("receive from a closed connection: %v", err)
	}
	if err := a.send(time.Second, hello); !errors.Is(err, ErrClosed) {
		t.Errorf("send to a closed connection: %v", err)
	}
}

func TestConnectionRefusesNonsense(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"nonsense\n", "invalid character"},
		{`{"pid":"seven"}` + "\n", "cannot unmarshal"},
		{strings.Repeat("x", maxMessage+1<<20), "longer than"},
	} {
		a, b := connectionPair(t)
		go func() { _, _ = a.socket.Write([]byte(c.text)) }()
		var h protocol.Hello
		if err := b.receive(5*time.Second, &h); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.20q: %v, want %q", c.text, err, c.want)
		}
		b.close()
	}
	a, b := connectionPair(t)
	defer a.close()
	var h protocol.Hello
	for range maxFiles + 1 { // a file with every byte, and no end of the message
		if _, _, err := a.socket.WriteMsgUnix([]byte("x"), unix.UnixRights(0), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.receive(5*time.Second, &h); err == nil || !strings.Contains(err.Error(), "want at most 8") {
		t.Errorf("more files than there are: %v", err)
	}
	a, b = connectionPair(t)
	defer a.close()
	if err := b.receive(20*time.Millisecond, &h); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing comes: %v", err)
	}
}

func TestPausesOf(t *testing.T) {
	if p := protocol.PausesOf(nil); p != nil {
		t.Errorf("of nothing: %+v", p)
	}
	p := protocol.PausesOf([]protocol.UpgradedDevice{{Pause: 3}, {Pause: 1}, {Pause: 2}, {Pause: 9}})
	if p.P50 != 2 || p.Max != 9 {
		t.Errorf("of 3, 1, 2, 9: %+v", p)
	}
}
