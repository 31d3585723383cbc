package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// listen serves a world's daemon on its socket until the end of the test.
func (w *world) listen(t *testing.T, change func(*http.Server)) {
	t.Helper()
	l, err := server.Listen(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	srv := w.d.NewServer()
	if change != nil {
		change(srv)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(server.Limit(l)) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
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

// brieflyPatient has clients retry for as long as d while the daemon is over a limit.
func brieflyPatient(t *testing.T, d time.Duration) {
	was := client.RetryTimeout
	client.RetryTimeout = d
	t.Cleanup(func() { client.RetryTimeout = was })
}

// A connection that asks for a handover counts until it is ready for it, so that they are as few as
// all others.
func TestTooManyHandovers(t *testing.T) {
	w := newWorld(t)
	w.listen(t, nil)
	var held []net.Conn
	for range 64 {
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
	wantError(t, err, protocol.ErrOverLimit, "64")
	for _, c := range held {
		_ = c.Close()
	}
	eventually(t, "there is room again", func() bool {
		c, err := client.Dial(t.Context(), w.dir)
		return err == nil && c.Close() == nil
	})
}

// Only so many requests wait for snapshots; one more is refused before it has done anything.
func TestTooManyWaits(t *testing.T) {
	w := newWorld(t, "a")
	var wg sync.WaitGroup
	ctx := t.Context()
	stop := make(chan struct{})
	for range maxWaits {
		leave, err := w.d.requests.waits.enter()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { <-stop; leave() })
	}
	brieflyPatient(t, 50*time.Millisecond)
	_, err := w.c.CreateSnapshot(ctx, protocol.CreateSnapshot{Volume: "a", Name: "one", Wait: true})
	wantError(t, err, protocol.ErrOverLimit, fmt.Sprint(maxWaits))
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

// The limits on reading a request and writing an answer don't end a check, which takes what it
// takes.
func TestLongCheck(t *testing.T) {
	w := newWorld(t, "a")
	const limit = 500 * time.Millisecond
	w.store.checkTakes = 3 * limit
	w.d.requests.answerTimeout = limit
	w.listen(t, func(s *http.Server) { s.ReadTimeout = limit })
	c, err := client.Dial(t.Context(), w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	heard := 0
	report, err := c.Check(t.Context(), protocol.CheckStore{}, func(objstore.CheckProgress) { heard++ })
	if err != nil || len(report.Damage) != 1 || heard != 1 {
		t.Errorf("a long check: %v, %+v, heard %d times of", err, report, heard)
	}
}

// What a deletion would free is known when its snapshots have settled: that has no time limit, but
// takes a place among the requests that wait, as a diff and a reindex do.
func TestLongRequestsTakePlaces(t *testing.T) {
	w := newWorld(t, "a")
	for range 3 {
		if _, err := w.store.CreateAutomatic(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	deletion, prune := protocol.WouldFree{Volumes: []string{"a"}}, protocol.Prune{Volume: "a", DryRun: true}
	if _, err := w.c.WouldFree(t.Context(), deletion); err != nil {
		t.Errorf("of a deletion: %v", err)
	}
	if p, err := w.c.Prune(t.Context(), prune); err != nil || len(p.Snapshots) != 2 {
		t.Errorf("of a prune: %v, %+v", err, p)
	}
	for range maxWaits {
		leave, err := w.d.requests.waits.enter()
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
	}
	brieflyPatient(t, 50*time.Millisecond)
	_, err := w.c.WouldFree(t.Context(), deletion)
	wantError(t, err, protocol.ErrOverLimit)
	_, err = w.c.Prune(t.Context(), prune)
	wantError(t, err, protocol.ErrOverLimit)
	_, err = w.c.Diff(t.Context(), protocol.Diff{From: objstore.ImageName{Volume: "a"}, To: objstore.ImageName{Volume: "a"}}, nil, nil)
	wantError(t, err, protocol.ErrOverLimit)
	_, err = w.c.Reindex(t.Context(), protocol.Reindex{Wait: true}, nil)
	wantError(t, err, protocol.ErrOverLimit)
	if p, err := w.c.Prune(t.Context(), protocol.Prune{Volume: "a"}); err != nil || len(p.Snapshots) != 2 {
		t.Errorf("a prune, which waits for nothing: %v, %+v", err, p)
	}
}
