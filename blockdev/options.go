package blockdev

import (
	"fmt"
	"log/slog"

	"varve/uring"
)

// Defaults and bounds of Options.
const (
	DefaultQueues  = 1
	DefaultDepth   = 128
	DefaultMaxIO   = 1 << 20
	DefaultWorkers = 16

	MaxQueues  = 64
	MaxDepth   = _UBLK_MAX_QUEUE_DEPTH
	MaxMaxIO   = 4 << 20 // bytes; objstore.MaxRequest
	MaxWorkers = 1024
)

// Options of a device. Zero means the default, but for ID, where it means device 0.
type Options struct {
	// ID is the N of /dev/ublkbN; -1: any that is free.
	ID int
	// Queues is how many hardware queues, each with a thread; the kernel makes it at most one for
	// each CPU.
	Queues int
	// Depth is how many requests of one queue are under way together.
	Depth int
	// CopyMode forces how bytes move; a mode that the kernel lacks is an error.
	CopyMode CopyMode
	// MaxIO is the largest request in bytes, a multiple of 4096.
	MaxIO int
	// ReadOnly refuses writes, whatever the target takes.
	ReadOnly bool
	// Recovery is what becomes of the device when its server dies.
	Recovery Recovery
	// Owner says whom the device belongs to. The driver keeps it with the device, and List returns
	// it.
	Owner uint64
	// MayGrow has Recover accept a target that is larger than the device: its server died after the
	// target had grown, and before the device had. The device gets the target's size once it is
	// served, where the kernel can do that.
	MayGrow bool
	// Workers is how many goroutines do what may block: flushes, and loads that a plan needs.
	Workers int
	// Logger logs failed requests and panics; nil: slog.Default().
	Logger *slog.Logger

	// For tests:
	without uint64                                  // features to ignore although the kernel has them
	newRing func(uring.Options) (uring.Ring, error) // of the queues
}

// EnsureDefaults sets the fields that are zero to their defaults.
func (o *Options) EnsureDefaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.Queues, DefaultQueues)
	def(&o.Depth, DefaultDepth)
	def(&o.MaxIO, DefaultMaxIO)
	def(&o.Workers, DefaultWorkers)
	if o.CopyMode == "" {
		o.CopyMode = CopyAuto
	}
	if o.Recovery == "" {
		o.Recovery = RecoveryReissue
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Validate reports the first option that no device could have.
func (o *Options) Validate() error {
	in := func(name string, v, lo, hi int) error {
		if v < lo || v > hi {
			return fmt.Errorf("%w: %s %d: not in %d to %d", ErrInvalid, name, v, lo, hi)
		}
		return nil
	}
	if o.MaxIO%pageSize != 0 {
		return fmt.Errorf("%w: largest request %d: not a multiple of %d", ErrInvalid, o.MaxIO, pageSize)
	}
	if _, err := ParseCopyMode(string(o.CopyMode)); err != nil {
		return err
	}
	if _, err := ParseRecovery(string(o.Recovery)); err != nil {
		return err
	}
	for _, err := range []error{
		in("device number", o.ID, -1, 1<<20-1),
		in("queues", o.Queues, 1, MaxQueues),
		in("queue depth", o.Depth, 1, MaxDepth),
		in("largest request", o.MaxIO, pageSize, MaxMaxIO),
		in("workers", o.Workers, 1, MaxWorkers),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}
