// Package targets opens what is behind a ublk device without a volume, and serves it, for the
// daemon and for processes that serve one device alone.
package targets

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"varve/blockdev"
	"varve/blockdev/target"
	"varve/blockdev/target/backing"
	"varve/blockdev/target/loop"
	"varve/blockdev/target/mirror"
	"varve/blockdev/target/nbd"
	"varve/blockdev/target/null"
	"varve/blockdev/target/qcow2"
	"varve/blockdev/target/stripe"
	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/protocol"
)

// Disk is an open target.
type Disk struct {
	target.Target
	// Notes are for the user: what the files can't do.
	Notes []string

	// MayAdd returns an error if a file can't become a leg of a mirror; nil: each may.
	MayAdd func(path string) error

	close   func() error
	mirror  *mirror.Mirror        // nil: it is none
	measure func() (int64, error) // nil: its size never changes
}

// Open opens a target. store is the directory of a store whose files, and disks, are refused: a
// store that lies on a device over itself would wait for itself, and anything else would destroy
// it. Problems of the files are queue.ErrInvalid, backing.ErrUsed, or those of open(2).
func Open(t protocol.Target, store string, log *slog.Logger) (*Disk, error) {
	for _, f := range t.Files {
		if err := apart(f, store); err != nil {
			return nil, err
		}
	}
	d := &Disk{MayAdd: func(path string) error { return apart(path, store) }, close: func() error { return nil }}
	direct := true
	if t.Zoned {
		if err := d.openZoned(&t); err != nil {
			return nil, err
		}
		return d, nil
	}
	switch t.Type {
	case "null":
		d.Target = null.New(t.Size, t.BlockSize)
	case "loop":
		l, err := loop.Open(t.Files[0], loop.Options{BlockSize: t.BlockSize, ReadOnly: t.ReadOnly, Buffered: t.Buffered})
		if err != nil {
			return nil, err
		}
		d.Target, d.close, d.measure, direct = l, l.Close, l.Measure, l.Direct()
	case "stripe":
		s, err := stripe.Open(t.Files, stripe.Options{
			Format: t.Format, ChunkSize: t.ChunkSize, BlockSize: t.BlockSize, ReadOnly: t.ReadOnly, Buffered: t.Buffered,
		})
		if err != nil {
			return nil, err
		}
		d.Target, d.close, direct = s, s.Close, s.Direct()
	case "mirror":
		m, err := mirror.Open(t.Files, mirror.Options{
			Format: t.Format, Degraded: t.Degraded, ResyncFrom: t.ResyncFrom, RegionSize: t.RegionSize,
			BlockSize: t.BlockSize, ReadOnly: t.ReadOnly, Buffered: t.Buffered, Logger: log,
		})
		if err != nil {
			return nil, err
		}
		d.Target, d.close, d.mirror, direct, d.Notes = m, m.Close, m, m.Direct(), m.Notes()
	case "qcow2":
		q, err := qcow2.Open(t.Files[0], qcow2.Options{
			BlockSize: t.BlockSize, ReadOnly: t.ReadOnly, Buffered: t.Buffered,
			Allow: func(path string) error { return apart(path, store) },
		})
		if err != nil {
			return nil, err
		}
		d.Target, d.close, direct = q, q.Close, q.Direct()
	case "nbd":
		n, err := openNBD(t)
		if err != nil {
			return nil, err
		}
		d.Target, d.close, d.Notes = n, n.Close, n.Notes()
	default:
		return nil, fmt.Errorf("unknown target %q", t.Type)
	}
	if !direct && !t.Buffered {
		why := noDirect
		if t.Type == "qcow2" {
			why += ", or the clusters or the length of an image are no multiple of what it wants"
		}
		d.Notes = append(d.Notes, why+throughCache)
	}
	return d, nil
}

func openNBD(t protocol.Target) (*nbd.Target, error) {
	return nbd.Open(context.Background(), t.URI, nbd.Options{
		Connections: t.Connections, BlockSize: t.BlockSize, ReadOnly: t.ReadOnly,
		Timeout:        time.Duration(t.Timeout) * time.Second,
		RequestTimeout: time.Duration(t.RequestTimeout) * time.Second,
		TLS:            nbd.Certificates{CA: t.TLSCA, Cert: t.TLSCert, Key: t.TLSKey, Hostname: t.TLSHostname},
	})
}

// The note on a disk that goes through the page cache, without being asked to.
const (
	noDirect     = "the file system has no direct I/O (O_DIRECT)"
	throughCache = ": the device goes through the page cache"
)

// Fits implements target.Resizer, for targets that do.
func (d *Disk) Fits(size int64) error {
	if t, ok := d.Target.(target.Resizer); ok {
		return t.Fits(size)
	}
	return fmt.Errorf("%w: the disk keeps its size", blockdev.ErrInvalid)
}

// Close closes the files. The device has ended.
func (d *Disk) Close() error { return d.close() }

// MayResize returns an error if a device over the target can't have size bytes.
func MayResize(t protocol.Target, size int64) error {
	if t.Zoned {
		return fmt.Errorf("%w: a zoned device keeps its size", blockdev.ErrInvalid)
	}
	switch t.Type {
	case "stripe", "mirror":
		return fmt.Errorf("%w: a %s keeps its size", blockdev.ErrInvalid, t.Type)
	case "qcow2":
		return fmt.Errorf("%w: a qcow2 device keeps the size that its image has; qemu-img resize changes that while it is not served", blockdev.ErrInvalid)
	case "nbd":
		return fmt.Errorf("%w: an nbd device keeps the size that its export had", blockdev.ErrInvalid)
	case "loop":
		f, err := backing.Open(t.Files[0], backing.Options{ReadOnly: true, Shared: true})
		if err != nil {
			return err
		}
		have := f.Size()
		if err := f.Close(); err != nil {
			return err
		}
		if size > have {
			return fmt.Errorf("%w: %d bytes are more than %s has: %d", blockdev.ErrInvalid, size, t.Files[0], have)
		}
	}
	return nil
}

// apart refuses a file of a store, and a disk that the given store lies on.
func apart(file, store string) error {
	path, err := filepath.EvalSymlinks(file)
	if err != nil {
		return nil //nolint:nilerr // opening it will fail with the reason
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if isStore(dir) {
			return fmt.Errorf("%w: %s is a file of the store %s, which would be destroyed", blockdev.ErrInvalid, file, dir)
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode()&os.ModeDevice == 0 || !isStore(store) {
		return nil //nolint:nilerr // the same
	}
	own, err := blockstack.Below(path)
	if err != nil || len(own) == 0 {
		return nil //nolint:nilerr // a device that nothing can be below of
	}
	layers, err := blockstack.Below(store)
	if err != nil {
		return fmt.Errorf("find out whether the store lies on %s: %w", file, err)
	}
	for _, l := range layers {
		if l.Path == own[0].Path {
			return fmt.Errorf("%w: the store %s lies on %s, %s", blockdev.ErrInvalid, store, file, l)
		}
	}
	return nil
}

// isStore reports whether a directory is that of a store.
func isStore(dir string) bool {
	for _, name := range []string{"superblock", "segments"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// measureEvery is how often a file is asked for its size.
const measureEvery = time.Second

// Follow serves what is asked of a mirror's legs, and notes how they are. It resizes a device
// whenever its file has grown, until ctx or the device ends. A file that has shrunk is reported
// once: its device keeps its size, since what uses it would lose the end without being asked.
func (d *Disk) Follow(ctx context.Context, dev *blockdev.Device, log *slog.Logger) {
	if d.mirror != nil {
		d.followLegs(ctx, dev, log)
	}
	if d.measure == nil {
		return
	}
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for last := dev.Size(); ; {
		select {
		case <-ctx.Done():
			return
		case <-dev.Done():
			return
		case <-tick.C:
		}
		size, err := d.measure()
		if err != nil {
			log.Warn("the size of a device's file is unknown", "device", dev.Path(), "error", err)
			return
		}
		if size == last {
			continue
		}
		if last = size; size == dev.Size() { // varve ublk update_size was here before
			continue
		}
		if size < dev.Size() {
			log.Error("a device's file has shrunk: I/O beyond its end fails", "device", dev.Path(), "bytes", size, "of", dev.Size())
			continue
		}
		if err := dev.Resize(ctx, size); err != nil {
			log.Warn("a device keeps its size, its file has grown", "device", dev.Path(), "bytes", size, "error", err)
			continue
		}
		log.Info("a device has grown with its file", "device", dev.Path(), "bytes", size)
	}
}
