package index

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"

	"varve/objstore/busfault"
)

// ErrNoSpace means that the file system is too full to let badger write.
//
// badger writes through mappings of files whose space is not allocated, and would die of SIGBUS on
// a full disk. So it is kept away from one. If other files take the last space while badger writes,
// package busfault keeps the process alive, and the index is not used any more.
var ErrNoSpace = errors.New("no space for the index")

// ErrLocked means that another process has the index open. After a Close on a full disk it stays
// locked until the process ends.
var ErrLocked = errors.New("index is in use by another process")

// ErrUnusable means that an index could neither be opened nor replaced.
var ErrUnusable = errors.New("index cannot be rebuilt")

// Options of Open. The zero value is the default.
type Options struct {
	// MemTable is the size in bytes of badger's tables in memory, of which there are up to 3.
	// Default 16 MiB.
	MemTable int64
	// MinFree is the room in bytes that the file system must have for Put, which may have a table
	// in memory written out and others merged. Default 8 times MemTable; negative: no limit.
	MinFree int64
	// Waiting bounds the entries that wait in memory while the disk has no space. Default 256 Ki,
	// of 100 bytes.
	Waiting int
	// Rebuilt is called, before Open returns, if an unreadable index was replaced by an empty one,
	// with the error of the old one.
	Rebuilt func(cause error)
	// Made is called when badger may have made files in the directory, to set their
	// owner. Default: nothing.
	Made func() error
	// Logger takes badger's warnings and errors. Default: none.
	Logger *slog.Logger
}

func (o *Options) ensureDefaults() {
	if o.MemTable == 0 {
		o.MemTable = 16 << 20
	}
	if o.MinFree == 0 {
		o.MinFree = 8 * o.MemTable
	}
	if o.Waiting == 0 {
		o.Waiting = 256 << 10
	}
	if o.Made == nil {
		o.Made = func() error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Keys: a byte of kind, then the object's hash, or the segment's ID in big endian.
const (
	kindEntry   = 'h'
	kindMark    = 'm'
	keySize     = 1 + 32
	markKeySize = 1 + 4
	valueSize   = 8 // segment and block, little endian
)

// suspectFile in the directory means that a read met a damaged table: the next Open replaces the
// index.
const suspectFile = "SUSPECT"

// uncleanFile holds a byte for each time in a row that the index was opened and not closed. From
// the second on everything is verified at opening: it could be the index itself that ends the
// process.
const uncleanFile = "UNCLEAN"

type disk struct {
	db      *badger.DB
	handle  *os.File // the directory
	dir     string   // a path that leads through handle
	opts    Options
	faults  uint64 // pages that busfault had replaced when this was opened
	suspect atomic.Bool
	broken  atomic.Bool // badger has failed a write: nobody knows what it does with another one
	syncMu  sync.Mutex
	waiting waiting
}

// Open opens the index in dir, and creates the directory if necessary. An index that badger cannot
// read is replaced by an empty one: see Options.Rebuilt. Open fails if the directory is locked or
// cannot be written.
func Open(dir string, o Options) (Index, error) {
	o.ensureDefaults()
	if err := busfault.Absorb(); err != nil {
		o.Logger.Info("a disk that fails or is full under the index can end this process", "error", err)
	}
	if err := finishInstall(dir); err != nil {
		o.Logger.Warn("replaced index was not removed", "error", err)
	}
	d := &disk{dir: dir, opts: o}
	if err := d.hold(); err != nil {
		return nil, fmt.Errorf("%w: open index %s: %w", ErrUnusable, dir, err)
	}
	ix, err := d.openOrReplace(dir)
	if err != nil {
		_ = d.handle.Close() // a handle only
	}
	return ix, err
}

// hold opens the directory, and has every path lead through it: it may be renamed (Next).
func (d *disk) hold() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	d.handle, d.dir = f, fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	return nil
}

// openOrReplace opens the index, or replaces it by an empty one.
func (d *disk) openOrReplace(dir string) (Index, error) {
	o := &d.opts
	if err := lookForStrays(dir, o.Logger); err != nil {
		return nil, fmt.Errorf("open index %s: %w", dir, err)
	}
	if err := removeSecond(d.dir); err != nil {
		o.Logger.Warn("rebuilt index was not removed", "error", err)
	}
	cause := d.open()
	if cause == nil {
		return d, nil
	}
	if strings.Contains(cause.Error(), unix.EWOULDBLOCK.Error()) {
		return nil, fmt.Errorf("open index %s: %w: %w", dir, ErrLocked, cause)
	}
	if errors.Is(cause, ErrNoSpace) {
		return nil, fmt.Errorf("open index %s: %w", dir, cause)
	}
	if !ownFault(cause) {
		return nil, fmt.Errorf("%w: open index %s: %w", ErrUnusable, dir, cause)
	}
	if err := removeOwn(d.dir); err != nil {
		return nil, fmt.Errorf("%w: delete unreadable one (%w): %w", ErrUnusable, cause, err)
	}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("%w: open new one in %s: %w", ErrUnusable, dir, err)
	}
	if o.Rebuilt != nil {
		o.Rebuilt(cause)
	}
	return d, nil
}

// ownFault reports whether replacing the index could help, for example because its files belong to
// another user and the directory does not. badger returns most errors as text only.
func ownFault(err error) bool {
	for _, no := range []unix.Errno{
		unix.EWOULDBLOCK, unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EROFS,
	} {
		if errors.Is(err, no) || strings.Contains(err.Error(), no.Error()) {
			return false
		}
	}
	return !errors.Is(err, ErrNoSpace)
}

func (d *disk) open() (err error) {
	defer func() {
		if p := recover(); p != nil { // badger asserts on some kinds of damage
			err = fmt.Errorf("badger: %v", p)
		}
	}()
	if _, err := os.Stat(d.path(suspectFile)); err == nil {
		return errors.New("a damaged table was met earlier")
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if err := d.room(); err != nil {
		return err
	}
	ends, err := os.ReadFile(d.path(uncleanFile))
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	if err := verifyTables(d.dir, len(ends) >= 2); err != nil {
		return err
	}
	// Before badger: it can't be closed again on a disk that has become full, and may end the
	// process itself.
	if err := os.WriteFile(d.path(uncleanFile), append(ends, '!'), 0o600); err != nil {
		return err
	}
	d.faults = busfault.Absorbed()
	d.db, err = badger.Open(d.badgerOptions())
	d.made()
	return err
}

// made sets the owner of files that badger has created. If that fails, the owner's next opening
// replaces the index.
func (d *disk) made() {
	if err := d.opts.Made(); err != nil {
		d.opts.Logger.Warn("the owner of the index's files was not changed", "error", err)
	}
}

func (d *disk) path(name string) string { return filepath.Join(d.dir, name) }

func (d *disk) badgerOptions() badger.Options {
	return badger.DefaultOptions(d.dir).
		WithLogger(&badgerLogger{l: d.opts.Logger}).
		WithMemTableSize(d.tableSize()).
		WithNumMemtables(2).
		WithNumCompactors(2). // the least that badger takes
		// Without compression and encryption badger reads blocks and the tables' own indexes from
		// the mapped tables (table/table.go, fetchIndex, v4.9.6), and no cache of them is used. It
		// would not be idle all the same: ristretto looks once through every 5 seconds that the
		// wall clock has passed over (ttl.go, cleanup, v2.2.0), which after a step from 1970 to
		// 2100 is 820 million.
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithCompression(options.None).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithValueThreshold(1 << 10). // values are 8 bytes: all inline, the value log stays empty
		WithValueLogFileSize(1 << 20).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false).
		WithSyncWrites(false).
		WithMetricsEnabled(false)
}

// room returns ErrNoSpace if the disk is too full for badger.
func (d *disk) room() error {
	if d.opts.MinFree < 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return &iofs.PathError{Op: "statfs", Path: d.dir, Err: err}
	}
	if free := int64(st.Bavail) * st.Bsize; free < d.opts.MinFree {
		return fmt.Errorf("%d bytes free, %d needed: %w", free, d.opts.MinFree, ErrNoSpace)
	}
	return nil
}

func (d *disk) Get(hash *[32]byte) (Location, bool) {
	var key [keySize]byte
	key[0] = kindEntry
	copy(key[1:], hash[:])
	p, found := d.waiting.get(hash)
	if found {
		return p, true
	}
	d.view(key[:], func(v []byte) {
		if len(v) == valueSize {
			p = Location{Segment: binary.LittleEndian.Uint32(v), Block: binary.LittleEndian.Uint32(v[4:])}
			found = true
		}
	})
	return p, found
}

// view reads one key. An error other than a missing key makes the index suspect.
func (d *disk) view(key []byte, got func(v []byte)) {
	if d.broken.Load() {
		return
	}
	var value [valueSize]byte
	n, found := 0, false
	d.get(key, func(v []byte) { n, found = copy(value[:], v), true })
	if !d.faulted() && found { // else it could be of a page that was replaced
		got(value[:n])
	}
}

func (d *disk) get(key []byte, got func(v []byte)) {
	txn := d.db.NewTransaction(false)
	defer txn.Discard()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // where busfault does nothing
	defer func() {
		if p := recover(); p != nil { // badger takes a block apart before it looks at the checksum
			d.distrust(fmt.Errorf("badger: %v", p))
		}
	}()
	item, err := txn.Get(key)
	if err == nil {
		err = item.Value(func(v []byte) error { got(v); return nil })
	}
	switch {
	case err == nil, errors.Is(err, badger.ErrKeyNotFound), errors.Is(err, badger.ErrDBClosed):
	default:
		d.distrust(err)
	}
}

// faulted tells whether a page of any mapped file has been replaced since the index was opened:
// badger may have read zeroes, and its files may lack what it wrote. It is left alone then.
func (d *disk) faulted() bool {
	n := busfault.Absorbed() - d.faults
	if n == 0 {
		return false
	}
	cause := fmt.Errorf("%d pages could not be read from the disk or have no room on it", n)
	d.distrust(cause)
	d.giveUp(cause)
	return true
}

// distrust leaves a note that the directory is damaged; badger goes on with what it can read. The
// note is a file that is there already, under another name: a full disk has no room for a new one.
func (d *disk) distrust(cause error) {
	if d.suspect.Swap(true) {
		return
	}
	d.opts.Logger.Warn("index is damaged, and will be rebuilt when the store is opened again", "error", cause)
	if err := os.Rename(d.path(uncleanFile), d.path(suspectFile)); err != nil {
		d.opts.Logger.Warn("note that the index is damaged", "error", err)
	}
}

func (d *disk) Put(entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	err := d.drain()
	if err == nil {
		err = d.put(entries)
	}
	if errors.Is(err, ErrNoSpace) && d.waiting.add(entries, d.opts.Waiting) {
		return nil
	}
	return err
}

// drain puts the waiting entries.
func (d *disk) drain() error {
	if d.waiting.n.Load() == 0 {
		return nil
	}
	if err := d.writable(); err != nil {
		return err
	}
	entries := d.waiting.all()
	if err := d.put(entries); err != nil {
		return err
	}
	d.waiting.done(entries)
	return nil
}

func (d *disk) put(entries []Entry) error {
	return d.write(func(set func(key, value []byte) error) error {
		buf := make([]byte, len(entries)*(keySize+valueSize)) // badger keeps them until they are written
		for _, e := range entries {
			key, value := buf[:keySize:keySize], buf[keySize:keySize+valueSize:keySize+valueSize]
			buf = buf[keySize+valueSize:]
			key[0] = kindEntry
			copy(key[1:], e.Hash[:])
			binary.LittleEndian.PutUint32(value, e.Location.Segment)
			binary.LittleEndian.PutUint32(value[4:], e.Location.Block)
			if err := set(key, value); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delete removes entries, also those that wait.
func (d *disk) Delete(hashes [][32]byte) error {
	d.waiting.drop(hashes)
	return d.batch(func(b *badger.WriteBatch) error {
		buf := make([]byte, len(hashes)*keySize) // badger keeps them until they are written
		for i := range hashes {
			key := buf[i*keySize : (i+1)*keySize : (i+1)*keySize]
			key[0] = kindEntry
			copy(key[1:], hashes[i][:])
			if err := b.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
}

// write sets keys in as few transactions as badger takes, and returns when all of them are visible.
func (d *disk) write(fill func(set func(key, value []byte) error) error) error {
	return d.batch(func(b *badger.WriteBatch) error { return fill(b.Set) })
}

// batch writes in as few transactions as badger takes, and returns when all of it is visible.
func (d *disk) batch(fill func(*badger.WriteBatch) error) error {
	if err := d.writable(); err != nil {
		return err
	}
	b := d.db.NewWriteBatch()
	defer b.Cancel()
	b.SetMaxPendingTxns(2) // each holds up to 15 % of MemTable
	err := fill(b)
	if err == nil {
		err = b.Flush()
	}
	if err != nil {
		d.giveUp(err)
		return fmt.Errorf("write index: %w", err)
	}
	return d.usable()
}

// usable returns the reason why badger must not be used, or nil.
func (d *disk) usable() error {
	if d.faulted() || d.broken.Load() {
		return fmt.Errorf("write index: an earlier write failed: %w", ErrNoSpace)
	}
	return nil
}

// writable returns the reason why badger must not write, or nil.
func (d *disk) writable() error {
	if err := d.usable(); err != nil {
		return err
	}
	if err := d.room(); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

// giveUp stops using badger: a new index replaces it, at once or when the store is opened again.
func (d *disk) giveUp(cause error) {
	if !d.broken.Swap(true) {
		d.opts.Logger.Error("the index is not used any more, and is rebuilt; until then look-ups are slow, and duplicates are not found", "error", cause)
	}
}

// Sync syncs the logs of all tables in memory. badger's own Sync leaves out those that wait to be
// written as a table (db.go, v4.9.6); a table on disk is synced, and entered into the manifest,
// before its log goes.
func (d *disk) Sync() error {
	d.syncMu.Lock()
	defer d.syncMu.Unlock()
	if err := d.drain(); err != nil {
		return fmt.Errorf("sync index: %w", err)
	}
	if err := d.db.Sync(); err != nil {
		return fmt.Errorf("sync index: %w", err)
	}
	logs, err := filepath.Glob(d.path("*.mem"))
	if err != nil {
		return fmt.Errorf("sync index: %w", err)
	}
	for _, log := range append(logs, d.dir) {
		if err := syncPath(log); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return fmt.Errorf("sync index: %w", err)
		}
	}
	d.made()
	return d.usable()
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func markKey(segment uint32) []byte {
	key := make([]byte, markKeySize)
	key[0] = kindMark
	binary.BigEndian.PutUint32(key[1:], segment)
	return key
}

func (d *disk) Done(segment uint32) bool {
	done := false
	d.view(markKey(segment), func([]byte) { done = true })
	return done
}

func (d *disk) MarkDone(segments ...uint32) error {
	if len(segments) == 0 {
		return nil
	}
	if err := d.Sync(); err != nil {
		return err
	}
	return d.write(func(set func(key, value []byte) error) error {
		for _, s := range segments {
			if err := set(markKey(s), []byte{1}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *disk) Forget(segment uint32) error {
	if err := d.writable(); err != nil {
		return err
	}
	err := d.db.Update(func(txn *badger.Txn) error { return txn.Delete(markKey(segment)) })
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

func (d *disk) Bytes() int64 {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return 0
	}
	var sum int64
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(d.dir, e.Name()), &st) == nil {
			sum += st.Blocks * 512 // the logs are sparse
		}
	}
	return sum
}

// Close asks every closePoll whether badger has the room that it wants, and waits for it no longer
// than closePatience.
const (
	closePoll     = time.Second
	closePatience = 30 * time.Second
)

// Close writes what is in memory as a table, syncs and closes. On a disk that is full, or takes no
// writes, badger would try that for ever (db.go, handleMemTableFlush, v4.9.6): there it is left
// with its log, as a kill would leave it, and holds its directory until the process ends.
func (d *disk) Close() error {
	if err := d.room(); err != nil {
		return d.abandon(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- d.db.Close() }()
	poll := time.NewTicker(closePoll)
	defer poll.Stop()
	limit := time.After(closePatience)
	for {
		select {
		case err := <-closed:
			if d.faulted() || d.suspect.Load() {
				return d.handle.Close() // it begins anew, whatever badger thought of it
			}
			d.made()
			if err == nil {
				err = os.Remove(d.path(uncleanFile))
			}
			err = errors.Join(err, d.handle.Close())
			if err != nil {
				return fmt.Errorf("close index: %w", err)
			}
			return nil
		case <-poll.C:
			if err := d.room(); err != nil {
				return d.abandon(err)
			}
		case <-limit:
			abandoned.Store(d, true)
			return fmt.Errorf("close index: badger has not written its tables within %v", closePatience)
		}
	}
}

// abandoned are indexes that badger may still write to: their directories stay open.
var abandoned sync.Map

func (d *disk) abandon(cause error) error {
	abandoned.Store(d, true)
	d.opts.Logger.Warn("the index is left as after a kill", "error", cause)
	return nil
}

// badgerLogger forwards warnings and errors, and drops badger's informational messages.
type badgerLogger struct {
	l  *slog.Logger
	mu sync.Mutex
	at time.Time // when it was last said that the disk is full: badger says so at every try, 20 times a second
}

func (b *badgerLogger) Errorf(format string, args ...any) {
	b.warn(slog.LevelError, fmt.Sprintf(format, args...))
}

func (b *badgerLogger) Warningf(format string, args ...any) {
	b.warn(slog.LevelWarn, fmt.Sprintf(format, args...))
}

func (b *badgerLogger) warn(level slog.Level, msg string) {
	if strings.Contains(msg, unix.ENOSPC.Error()) {
		b.mu.Lock()
		often := time.Since(b.at) < time.Minute
		if !often {
			b.at = time.Now()
		}
		b.mu.Unlock()
		if often {
			return
		}
	}
	b.l.Log(context.Background(), level, strings.TrimSpace("badger: "+msg))
}

func (b *badgerLogger) Infof(format string, args ...any) {
	b.l.Debug(strings.TrimSpace("badger: " + fmt.Sprintf(format, args...)))
}

func (b *badgerLogger) Debugf(string, ...any) {}
