package objstore

import (
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"

	"varve/objstore/internal/lockorder"
)

// damageBook records and logs the damage that a store has found.
type damageBook struct {
	log  *slog.Logger
	hold atomic.Bool // a volume is damaged: no segment of an earlier process is removed

	reportMu lockorder.Mutex[lockorder.Memory]
	repairs  []*CorruptError // damage that opening has repaired
	losses   []*CorruptError // damage that opening has found and could not repair
	strays   []string        // foreign files that opening has found among the store's
}

// repaired notes damage that opening has found and repaired.
func (b *damageBook) repaired(d *CorruptError) {
	b.log.Warn("damage was found and repaired", "error", d)
	b.reportMu.Lock()
	defer b.reportMu.Unlock()
	b.repairs = append(b.repairs, d)
}

// lost notes damage that opening has found, and that affects no more than the data that lies there.
func (b *damageBook) lost(err error) {
	b.log.Error("damage was found; the store opens with what is left", "error", err)
	var c *CorruptError
	if errors.As(err, &c) {
		b.reportMu.Lock()
		defer b.reportMu.Unlock()
		b.losses = append(b.losses, c)
	}
}

// refuse notes that a volume is damaged. From then on the store keeps every slot that its journals
// may refer to.
func (b *damageBook) refuse(v *volume, d *volumeDamage) {
	v.damage.Store(d)
	b.hold.Store(true)
	b.log.Error("a volume is damaged; it is refused until it is repaired", "volume", v.Name(), "error", d.err)
}

// stray notes a foreign file. A file belongs to the store if its name has exactly the form that the
// store writes. Another spelling of the same number is foreign: the log and a check name it, and it
// is neither opened nor deleted.
func (b *damageBook) stray(name string) {
	b.log.Warn("a file does not belong to the store; it is left alone", "file", name)
	b.reportMu.Lock()
	defer b.reportMu.Unlock()
	if !slices.Contains(b.strays, name) {
		b.strays = append(b.strays, name)
	}
}
