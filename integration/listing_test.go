//go:build integration

package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestListingManySnapshots creates some hundred snapshots of a device that is being written, and
// lists the whole mount, as ls -lR does: volumes, snapshots and roots.
func TestListingManySnapshots(t *testing.T) {
	const snapshots = 200
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	dir := n.fuse(ctx)
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	socket := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.store, "varve.sock"))
	}}}
	defer socket.CloseIdleConnections()
	var took []time.Duration
	for i := range snapshots {
		block := make([]byte, 4096)
		copy(block, fmt.Sprint("snapshot ", i))
		if _, err := f.WriteAt(block, int64(i)*65536); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		body := strings.NewReader(fmt.Sprintf(`{"volume":"disk","name":"s%03d"}`, i))
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://varve/v1/snapshots", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Varve-Protocol", "1")
		resp, err := socket.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode >= http.StatusBadRequest {
			t.Fatalf("snapshot %d: %s", i, resp.Status)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	n.snapshot(ctx, "disk@last") // settled, and so all before it
	began := time.Now()
	list := must(ctx, t, "ls", "-lR", dir)
	t.Logf("a snapshot took %v (p50), %v at most; the listing of %d lines %v",
		took[len(took)/2], took[len(took)-1], strings.Count(list, "\n"), time.Since(began))
	// A directory with image and info for each snapshot, one with an image for each root, and they
	// are all different.
	if got := strings.Count(list, " disk.img"); got < 2*snapshots {
		t.Errorf("%d images are listed, of %d snapshots and their roots", got, snapshots)
	}
	if got := strings.Count(list, " info.json"); got != snapshots+2 {
		t.Errorf("%d info.json are listed, want %d", got, snapshots+2)
	}
}
