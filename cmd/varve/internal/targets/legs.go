package targets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
)

// Whoever serves a mirror, the daemon or a process of its own, listens on a socket beside the record
// of its device. A connection is one question and one answer, each an object of JSON.

func legsPath(id int) string { return filepath.Join(Runtime, fmt.Sprintf("%d.legs", id)) }

// legQuestion asks for a leg to come back.
type legQuestion struct {
	Add    string `json:"add"` // an absolute path
	Format bool   `json:"format,omitempty"`
}

type legAnswer struct {
	Error   string `json:"error,omitempty"`
	Invalid bool   `json:"invalid,omitempty"` // the error is blockdev.ErrInvalid
}

// legLimit bounds how long a question may take, which opens a file and writes to all legs.
const legLimit = time.Minute

// AddLeg has the server of a mirror's device take a leg back, or with format take a file as a leg.
func AddLeg(ctx context.Context, id int, path string, format bool) error {
	ctx, cancel := context.WithTimeout(ctx, legLimit)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", legsPath(id))
	if err != nil {
		return fmt.Errorf("ask the server of the device, which has to be a mirror: %w", err)
	}
	defer func() { _ = c.Close() }() // the answer is here
	if t, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(t); err != nil {
			return err
		}
	}
	if err := json.NewEncoder(c).Encode(legQuestion{path, format}); err != nil {
		return err
	}
	var a legAnswer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		return fmt.Errorf("ask the server of the device: %w", err)
	}
	switch {
	case a.Invalid:
		return &invalidLeg{a.Error}
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}

// invalidLeg is an error that the server has called blockdev.ErrInvalid.
type invalidLeg struct{ text string }

func (e *invalidLeg) Error() string { return e.text }
func (e *invalidLeg) Unwrap() error { return blockdev.ErrInvalid }

// Legs returns how the legs of a mirror are; nil: it is none.
func (d *Disk) Legs() []protocol.Leg {
	if d.mirror == nil {
		return nil
	}
	var list []protocol.Leg
	for _, l := range d.mirror.Status() {
		list = append(list, protocol.Leg(l))
	}
	return list
}

// followLegs answers questions, and notes how the legs are, until ctx or the device ends.
func (d *Disk) followLegs(ctx context.Context, dev *blockdev.Device, log *slog.Logger) {
	l, err := listenLegs(dev.ID())
	if err != nil {
		log.Warn("legs can't be added to a mirror while it is served", "device", dev.Path(), "error", err)
	}
	var serving sync.WaitGroup
	if l != nil {
		serving.Go(func() { d.serveLegs(l) })
	}
	d.noteLegs(ctx, dev, log)
	if l != nil {
		_ = l.Close()
	}
	serving.Wait()
}

func listenLegs(id int) (l *net.UnixListener, err error) {
	if err := os.Remove(legsPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) { // a predecessor's
		return nil, err
	}
	err = inRuntime(func() error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: legsPath(id), Net: "unix"})
		return err
	})
	if err == nil {
		l.SetUnlinkOnClose(false) // a successor may have the name
	}
	return l, err
}

func (d *Disk) serveLegs(l *net.UnixListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(legLimit)) // one that does not hold makes others wait
		var q legQuestion
		if err := json.NewDecoder(c).Decode(&q); err == nil {
			var a legAnswer
			if err := d.addLeg(q); err != nil {
				a = legAnswer{err.Error(), errors.Is(err, blockdev.ErrInvalid)}
			}
			_ = json.NewEncoder(c).Encode(a) // who has asked is gone
		}
		_ = c.Close()
	}
}

func (d *Disk) addLeg(q legQuestion) error {
	if !filepath.IsAbs(q.Add) {
		return fmt.Errorf("%w: file %q is not an absolute path", blockdev.ErrInvalid, q.Add)
	}
	if err := d.MayAdd(q.Add); err != nil {
		return err
	}
	return d.mirror.AddLeg(q.Add, q.Format)
}

// noteLegs keeps the record of the device true.
func (d *Disk) noteLegs(ctx context.Context, dev *blockdev.Device, log *slog.Logger) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for last := []protocol.Leg(nil); ; {
		if now := d.Legs(); !slices.Equal(now, last) {
			if err := noteLegs(dev.ID(), now); err != nil {
				log.Warn("how the legs of a mirror are was not noted", "device", dev.Path(), "error", err)
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return
		case <-dev.Done():
			return
		case <-tick.C:
		}
	}
}

func noteLegs(id int, legs []protocol.Leg) error {
	r, known, err := Noted(id)
	if err != nil || !known {
		return err
	}
	r.Legs, r.Files = legs, nil
	for _, l := range legs {
		if l.File != "" {
			r.Files = append(r.Files, l.File)
		}
	}
	return Note(r)
}
