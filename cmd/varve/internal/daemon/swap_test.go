package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/protocol"
)

const swapsHead = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"

func TestParseSwaps(t *testing.T) {
	areas, err := parseSwaps(strings.NewReader(swapsHead +
		"/dev/ublkb0                             partition\t1048572\t\t512\t\t-2\n" +
		"/var/a\\040swap\\134file                   file\t\t2097148\t\t0\t\t5\n"))
	want := []swapArea{{"/dev/ublkb0", 512 << 10}, {`/var/a swap\file`, 0}}
	if err != nil || !slices.Equal(areas, want) {
		t.Errorf("areas %+v, %v; want %+v", areas, err, want)
	}
	for _, bad := range []string{"/dev/sda1 partition 8\n", "/dev/sda1 partition 8 x 0\n"} {
		if _, err := parseSwaps(strings.NewReader(swapsHead + bad)); err == nil || !strings.Contains(err.Error(), "/dev/sda1") {
			t.Errorf("%q: %v, want an error with the line", bad, err)
		}
	}
	if areas, err := parseSwaps(strings.NewReader(swapsHead)); err != nil || len(areas) > 0 {
		t.Errorf("no swap: %v, %v", areas, err)
	}
}

// Swap on a device of ours, whatever is between, is in stat and in the log; other swap is not.
func TestSwapOnOwnDevice(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	var log bytes.Buffer
	w.d.swaps.log = slog.New(slog.NewTextHandler(&log, nil))
	w.d.swaps.file = filepath.Join(t.TempDir(), "swaps")
	w.d.swaps.below = func(path string) ([]blockstack.Layer, error) {
		switch path {
		case a.Device:
			return []blockstack.Layer{{Path: path}}, nil
		case "/dev/dm-1":
			return []blockstack.Layer{{Path: path}, {Path: a.Device, Over: []string{path}}}, nil
		case "/dev/lost":
			return nil, errors.New("no sysfs")
		}
		return []blockstack.Layer{{Path: "/dev/vda"}}, nil
	}
	watch := swapWatch{swaps: w.d.swaps}
	for _, c := range []struct {
		name, areas string
		want        []protocol.Swap
		says        []string
	}{
		{"none", "", []protocol.Swap{}, nil},
		{"another disk's", "/dev/vda2 partition 8 4 -2\n", []protocol.Swap{}, nil},
		{
			"own", "/dev/vda2 partition 8 4 -2\n" + a.Device + " partition 8 0 -3\n",
			[]protocol.Swap{{Area: a.Device, Device: a.Device, Volume: "a"}},
			[]string{swapDanger, a.Device, "volume=a"},
		},
		{"in use", a.Device + " partition 8 4 -3\n", []protocol.Swap{{Area: a.Device, Device: a.Device, Volume: "a", Used: 4096}}, nil},
		{
			"below", "/dev/dm-1 partition 8 4 -3\n",
			[]protocol.Swap{{Area: "/dev/dm-1", Device: a.Device, Volume: "a", Used: 4096}},
			[]string{swapDanger, "/dev/dm-1", "no swap on this device any more"},
		},
		{"unknown", "/dev/lost partition 8 4 -3\n", []protocol.Swap{}, []string{"is unknown", "no sysfs"}},
		{"gone", "", []protocol.Swap{}, []string{"no swap on this device any more", "/dev/dm-1"}},
	} {
		log.Reset()
		if err := os.WriteFile(w.d.swaps.file, []byte(swapsHead+c.areas), 0o600); err != nil {
			t.Fatal(err)
		}
		watch.look()
		watch.look() // what is known is not said again
		st, err := w.c.Stat(t.Context())
		if err != nil || !slices.Equal(st.Swap, c.want) {
			t.Errorf("%s: stat has %+v, %v; want %+v", c.name, st.Swap, err, c.want)
		}
		for _, s := range c.says {
			if !strings.Contains(log.String(), s) {
				t.Errorf("%s: the log does not say %q:\n%s", c.name, s, log.String())
			}
		}
		if n := strings.Count(log.String(), "\n"); c.says == nil && n > 0 || n > 2 {
			t.Errorf("%s: %d lines in the log:\n%s", c.name, n, log.String())
		}
	}
	w.d.swaps.file = filepath.Join(t.TempDir(), "none") // a kernel without swap
	if st, err := w.c.Stat(t.Context()); err != nil || len(st.Swap) > 0 {
		t.Errorf("without a list of swap areas: %+v, %v", st.Swap, err)
	}
}

// A volume that mkswap has made a swap area is attached with a warning.
func TestAttachOfSwapArea(t *testing.T) {
	w := newWorld(t, "data", "swap")
	w.d.readAt = func(volume string, p []byte, off int64) error {
		if volume == "swap" && off == int64(os.Getpagesize())-10 {
			copy(p, "SWAPSPACE2")
		}
		return nil
	}
	if a := w.attach(t, "data"); len(a.Notes) > 0 {
		t.Errorf("notes %q", a.Notes)
	}
	if a := w.attach(t, "swap"); len(a.Notes) != 1 || !strings.Contains(a.Notes[0], "holds a swap area: "+swapDanger) {
		t.Errorf("notes %q", a.Notes)
	}
}
