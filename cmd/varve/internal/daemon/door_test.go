package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// listen serves a world's daemon on its socket until the end of the test.
func (w *world) listen(t *testing.T, change func(*http.Server)) *door {
	t.Helper()
	u, err := Listen(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	l := newDoor(u)
	srv := w.d.NewServer()
	if change != nil {
		change(srv)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return l
}

// raw connects without a client's manners.
func (w *world) raw(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", w.dir+"/"+protocol.SocketName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (d *door) count() (served, late int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.served, d.late
}

// cutOff says whether the other side closes a connection within d.
func cutOff(t *testing.T, c net.Conn, d time.Duration) bool {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, c)
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

// brieflyPatient has clients ask for as long as d when the daemon is crowded.
func brieflyPatient(t *testing.T, d time.Duration) {
	was := client.RetryTimeout
	client.RetryTimeout = d
	t.Cleanup(func() { client.RetryTimeout = was })
}

// 64 connections are served, 64 more are told that there are too many, and what comes beyond waits to be accepted. A
// client asks again, for so long, and says in the end what it has met. When the first are gone, all is as before.
func TestTooManyConnections(t *testing.T) {
	brieflyPatient(t, 200*time.Millisecond)
	w := newWorld(t, "a")
	l := w.listen(t, nil)
	var held []net.Conn
	for range maxConnections {
		held = append(held, w.raw(t))
	}
	eventually(t, "all are served", func() bool { n, _ := l.count(); return n == maxConnections })
	for range 3 { // and again: those who were told are gone
		_, err := client.Dial(t.Context(), w.dir)
		wantError(t, err, protocol.ErrCrowded, fmt.Sprint(maxConnections), "200ms")
	}
	eventually(t, "those who were told are gone", func() bool { _, n := l.count(); return n == 0 })
	for range maxLate {
		held = append(held, w.raw(t))
	}
	eventually(t, "all are late", func() bool { _, n := l.count(); return n == maxLate })
	c := w.raw(t)
	if cutOff(t, c, 100*time.Millisecond) {
		t.Error("a connection beyond the limit is closed")
	}
	if served, late := l.count(); served != maxConnections || late != maxLate {
		t.Errorf("%d served, %d late", served, late)
	}
	for _, c := range append(held, c) {
		_ = c.Close()
	}
	eventually(t, "all are gone", func() bool { served, late := l.count(); return served+late == 0 })
	k, err := client.Dial(t.Context(), w.dir)
	if err != nil {
		t.Fatalf("after the crowd: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// Hundreds of clients at once all get their answer, while others keep most connections for themselves.
func TestCrowdIsServed(t *testing.T) {
	brieflyPatient(t, 2*time.Minute)
	w := newWorld(t, "a")
	l := w.listen(t, nil)
	for range maxConnections - 4 {
		w.raw(t)
	}
	eventually(t, "most are taken", func() bool { n, _ := l.count(); return n == maxConnections-4 })
	const clients = 300
	errs := make(chan error, clients)
	for range clients {
		go func() {
			c, err := client.Dial(t.Context(), w.dir)
			if err == nil {
				_, err = c.Volumes(t.Context())
				err = errors.Join(err, c.Close())
			}
			errs <- err
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// A door that is full does not keep the daemon from ending.
func TestFullDoorCloses(t *testing.T) {
	w := newWorld(t)
	l := w.listen(t, nil)
	for range maxConnections + maxLate + 1 {
		w.raw(t)
	}
	eventually(t, "it is full", func() bool { served, late := l.count(); return served+late == maxConnections+maxLate })
}

// A connection that asks for a handover counts until it is ready for it, so that they are as few as all others.
func TestTooManyHandovers(t *testing.T) {
	w := newWorld(t)
	l := w.listen(t, nil)
	var held []net.Conn
	for range maxConnections {
		c := w.raw(t)
		_, err := io.WriteString(c, "POST /handover HTTP/1.1\r\nHost: varve\r\nConnection: Upgrade\r\nUpgrade: varve-handover/1\r\n\r\n")
		if err == nil {
			_, err = c.Read(make([]byte, 1000)) // it is taken for what it is
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	brieflyPatient(t, 50*time.Millisecond)
	_, err := client.Dial(t.Context(), w.dir)
	wantError(t, err, protocol.ErrCrowded, fmt.Sprint(maxConnections))
	for _, c := range held {
		_ = c.Close()
	}
	eventually(t, "all are gone", func() bool { served, late := l.count(); return served+late == 0 })
}

// A client that is slow to say what it wants is cut off, and keeps nobody from being served meanwhile.
func TestSlowClients(t *testing.T) {
	w := newWorld(t, "a")
	w.listen(t, func(s *http.Server) { s.ReadHeaderTimeout, s.ReadTimeout = 300*time.Millisecond, 300*time.Millisecond })
	const header = "POST /v1/volumes HTTP/1.1\r\nHost: varve\r\nVarve-Protocol: 1\r\n"
	for name, begin := range map[string]string{
		"says nothing": "", "half a line": "GET /v1", "half a header": header, "no end of headers": header + "X: y\r\n",
		"no body":    header + "Content-Length: 50\r\n\r\n",
		"half a one": header + "Content-Length: 50\r\n\r\n{\"name\":",
		"chunks":     header + "Transfer-Encoding: chunked\r\n\r\n10\r\n{",
	} {
		c := w.raw(t)
		if _, err := io.WriteString(c, begin); err != nil {
			t.Fatal(err)
		}
		if _, err := w.c.Volumes(t.Context()); err != nil {
			t.Errorf("%s: somebody else: %v", name, err)
		}
		if !cutOff(t, c, 10*time.Second) {
			t.Errorf("%s: not cut off", name)
		}
	}
	// A header without an end, and one that is too large.
	c := w.raw(t)
	line := "X-Long: " + strings.Repeat("x", 1000) + "\r\n"
	_, _ = io.WriteString(c, header+strings.Repeat(line, 2*maxHeader/len(line))) // it may be cut off meanwhile
	if !cutOff(t, c, 10*time.Second) {
		t.Error("a header without end is not cut off")
	}
}

// A client that does not read its answer is given up.
func TestClientThatDoesNotRead(t *testing.T) {
	w := newWorld(t)
	for i := range 20000 { // an answer that no socket's buffer takes
		name := fmt.Sprint("volume", i)
		w.store.volumes[name] = objstore.VolumeInfo{Name: name, Size: 512, BlockSize: 512}
	}
	w.d.answerTimeout = 200 * time.Millisecond
	l := w.listen(t, nil)
	c := w.raw(t)
	if _, err := io.WriteString(c, "GET /v1/volumes HTTP/1.1\r\nHost: varve\r\nVarve-Protocol: 1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is served", func() bool { n, _ := l.count(); return n == 1 })
	eventually(t, "it is given up", func() bool { n, _ := l.count(); return n == 0 })
	// One that reads gets all of it, on a slow machine too.
	w.d.answerTimeout = time.Minute
	k, err := client.Dial(t.Context(), w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	if list, err := k.Volumes(t.Context()); err != nil || len(list) != 20000 {
		t.Errorf("%d volumes, %v", len(list), err)
	}
}

// Only so many requests wait for snapshots; one more is refused before it has done anything.
func TestTooManyWaits(t *testing.T) {
	w := newWorld(t, "a")
	var wg sync.WaitGroup
	ctx := t.Context()
	stop := make(chan struct{})
	for range maxWaits {
		leave, err := w.d.wait()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { <-stop; leave() })
	}
	brieflyPatient(t, 50*time.Millisecond)
	_, err := w.c.CreateSnapshot(ctx, protocol.CreateSnapshot{Volume: "a", Name: "one", Wait: true})
	wantError(t, err, protocol.ErrCrowded, fmt.Sprint(maxWaits))
	if list, err := w.c.Snapshots(ctx, ""); err != nil || len(list) != 0 {
		t.Errorf("snapshots: %v, %v", list, err)
	}
	if _, err := w.c.CreateSnapshot(ctx, protocol.CreateSnapshot{Volume: "a", Name: "two"}); err != nil {
		t.Errorf("without waiting: %v", err)
	}
	close(stop)
	wg.Wait()
	if _, err := w.c.CreateSnapshot(ctx, protocol.CreateSnapshot{Volume: "a", Name: "three", Wait: true}); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
}

// The limits on reading a request and writing an answer don't end a check, which takes what it takes.
func TestLongCheck(t *testing.T) {
	w := newWorld(t, "a")
	w.store.checkTakes = time.Second
	w.d.answerTimeout = 200 * time.Millisecond
	w.listen(t, func(s *http.Server) { s.ReadTimeout = 200 * time.Millisecond })
	c, err := client.Dial(t.Context(), w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	heard := 0
	report, err := c.Check(t.Context(), func(objstore.CheckProgress) { heard++ })
	if err != nil || len(report.Damage) != 1 || heard != 1 {
		t.Errorf("a long check: %v, %+v, heard %d times of", err, report, heard)
	}
}
