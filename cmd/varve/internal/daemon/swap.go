package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/protocol"
)

// Swap on one of our devices can stop the machine for good when its memory is used up: the kernel then allocates memory
// to complete the very writes that would free some (docs/design.md, "Swap"). Nothing in this process can prevent that,
// and nothing keeps swapon(8) from it: so whoever looks is told. A virtual machine that swaps to a device of ours is
// none of this, for its memory is not this kernel's.

const (
	swapsFile = "/proc/swaps"
	// swapInterval is how soon a new swap area is noticed.
	swapInterval = 2 * time.Second
	// swapDanger is what is said of one.
	swapDanger = "swap on a device of varve can stop the machine for good when memory runs out; swap to another disk"
)

// swapArea is a line of /proc/swaps.
type swapArea struct {
	path string // a block device, or a file
	used int64  // bytes
}

// parseSwaps reads /proc/swaps (swap_show, mm/swapfile.c, 7.3): name, type, size, used in KiB, priority.
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

// ownSwaps lists the machine's swap areas that lie on devices or mounts of this daemon, whatever is between, in the
// kernel's order. With an error some may be missing.
func (d *Daemon) ownSwaps() ([]protocol.Swap, error) {
	f, err := os.Open(d.swapsFile)
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
	nodes := d.ownNodes()
	var list []protocol.Swap
	var errs []error
	for _, a := range areas {
		layers, err := d.below(a.path)
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

// watchSwap logs when a swap area appears on a device of this daemon, and when it is gone, until end is called.
func (d *Daemon) watchSwap(interval time.Duration) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		var w swapWatch
		for {
			w.look(d)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() { cancel(); running.Wait() }
}

// swapWatch is what the log knows.
type swapWatch struct {
	known   []protocol.Swap
	trouble string // what was said of the last look that failed
}

func (w *swapWatch) look(d *Daemon) {
	list, err := d.ownSwaps()
	if err != nil {
		if err.Error() != w.trouble {
			d.log.Warn("whether there is swap on a device of varve is not known", "error", err)
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
			d.log.Warn(swapDanger, "area", s.Area, "device", s.Device, "volume", s.Volume)
		}
	}
	for _, s := range w.known {
		if !has(list, s) {
			d.log.Info("no swap on this device any more", "area", s.Area, "device", s.Device, "volume", s.Volume)
		}
	}
	w.known = list
}

// swapNotes are for whoever attaches a volume that was made a swap area by mkswap(8).
func (d *Daemon) swapNotes(volume string) []string {
	if d.readAt == nil {
		return nil
	}
	magic := make([]byte, 10) // at the end of the first page
	if err := d.readAt(volume, magic, int64(os.Getpagesize()-len(magic))); err != nil || string(magic) != "SWAPSPACE2" {
		return nil // an error shows itself to who reads
	}
	return []string{"the volume holds a swap area: " + swapDanger}
}
