package objstore

import (
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"

	"varve/objstore/internal/lockorder"
)

// damageBook is what a store knows about its damage, and logs as it learns of it.
type damageBook struct {
	log  *slog.Logger
	hold atomic.Bool // a volume is damaged: no segment of an earlier process is given back

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

// refuse notes that a volume is damaged. From now on the store keeps every slot that its journals
// may refer to.
func (b *damageBook) refuse(v *volume, d *volumeDamage) {
	v.damage.Store(d)
	b.hold.Store(true)
	b.log.Error("a volume is damaged; it is refused until it is repaired", "volume", v.Name(), "error", d.err)
}

// stray notes a file that is none of the store's. A file is the store's by its name, in the one form
// that the store itself writes. Any other spelling of the same number is a stray: it is named in the
// log and by a check, and neither opened nor deleted, since the store has not made it.
func (b *damageBook) stray(name string) {
	b.log.Warn("a file does not belong to the store; it is left alone", "file", name)
	b.reportMu.Lock()
	defer b.reportMu.Unlock()
	if !slices.Contains(b.strays, name) {
		b.strays = append(b.strays, name)
	}
}
