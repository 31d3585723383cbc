package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/protocol"
)

// Swap on one of our devices can stop the machine for good when its memory is used up: the kernel
// then allocates memory to complete the very writes that would free some (docs/design.md, "Swap").
// This process can neither prevent that nor refuse swapon(8), so the log, stat and attach warn. A
// virtual machine may swap to its disk on a device of ours: its memory is not this kernel's.

const (
	swapsFile = "/proc/swaps"
	// swapInterval is how soon a new swap area is noticed.
	swapInterval = 2 * time.Second
	// swapDanger is the warning.
	swapDanger = "swap on a device of varve can stop the machine for good when memory runs out; swap to another disk"
)

// swapArea is a line of /proc/swaps.
type swapArea struct {
	path string // a block device, or a file
	used int64  // bytes
}

// parseSwaps reads /proc/swaps (swap_show, mm/swapfile.c, 7.3): name, type, size, used in KiB,
// priority.
func parseSwaps(r io.Reader) ([]swapArea, error) {
	var areas []swapArea
	sc := bufio.NewScanner(r)
	for first := true; sc.Scan(); first = false {
		fields := strings.Fields(sc.Text())
		if first || len(fields) == 0 {
			continue
		}
		if len(fields) < 5 {
			return nil, fmt.Errorf("line of %s: %q", swapsFile, sc.Text())
		}
		used, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line of %s: %q: %w", swapsFile, sc.Text(), err)
		}
		areas = append(areas, swapArea{blockstack.Unescape(fields[0]), used << 10})
	}
	return areas, sc.Err()
}

// swaps finds the machine's swap areas on devices and mounts of this daemon.
type swaps struct {
	file  string                                        // like /proc/swaps
	below func(path string) ([]blockstack.Layer, error) // what an area lies on
	nodes func() ownNodes
	log   *slog.Logger
}

// list returns the swap areas that lie on devices or mounts of this daemon, directly or through
// other layers, in the kernel's order. After an error some may be missing.
func (s *swaps) list() ([]protocol.Swap, error) {
	f, err := os.Open(s.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without swap
	}
	if err != nil {
		return nil, err
	}
	areas, err := parseSwaps(f)
	_ = f.Close()
	if err != nil || len(areas) == 0 {
		return nil, err
	}
	nodes := s.nodes()
	var list []protocol.Swap
	var errs []error
	for _, a := range areas {
		layers, err := s.below(a.path)
		errs = append(errs, err)
		for _, l := range layers {
			if volume, ours := nodes.holds(l); ours {
				list = append(list, protocol.Swap{Area: a.path, Device: l.Path, Volume: volume, Used: a.used})
				break
			}
		}
	}
	return list, errors.Join(errs...)
}

// watch logs when a swap area appears on a device of this daemon, and when it is gone, until end is
// called.
func (s *swaps) watch(interval time.Duration) (end func()) {
	w := swapWatch{swaps: s}
	return repeat(interval, func(context.Context) { w.look() })
}

// swapWatch is what the log has said so far.
type swapWatch struct {
	*swaps
	known   []protocol.Swap
	trouble string // the error of the last look
}

func (w *swapWatch) look() {
	list, err := w.list()
	if err != nil {
		if err.Error() != w.trouble {
			w.log.Warn("it is unknown whether there is swap on a device of varve", "error", err)
		}
		w.trouble = err.Error()
		return
	}
	w.trouble = ""
	has := func(list []protocol.Swap, s protocol.Swap) bool {
		return slices.ContainsFunc(list, func(o protocol.Swap) bool { return o.Area == s.Area && o.Device == s.Device })
	}
	for _, s := range list {
		if !has(w.known, s) {
			w.log.Warn(swapDanger, "area", s.Area, "device", s.Device, "volume", s.Volume)
		}
	}
	for _, s := range w.known {
		if !has(list, s) {
			w.log.Info("no swap on this device any more", "area", s.Area, "device", s.Device, "volume", s.Volume)
		}
	}
	w.known = list
}

// swapNotes warn the user who attaches a volume that mkswap(8) has made a swap area.
func (d *Daemon) swapNotes(volume string) []string {
	if d.readAt == nil {
		return nil
	}
	magic := make([]byte, 10) // at the end of the first page
	if err := d.readAt(volume, magic, int64(os.Getpagesize()-len(magic))); err != nil || string(magic) != "SWAPSPACE2" {
		return nil // readers of the device will see an error
	}
	return []string{"the volume holds a swap area: " + swapDanger}
}
