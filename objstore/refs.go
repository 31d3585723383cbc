package objstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
)

// The refs log holds the names: volumes, snapshots, and the roots that they point to. A frame of it is a JSON
// array of refRecords that take effect together: refs are few and small, and a person can read them.
// The log is compacted, by way of a new file, when the store opens and as it grows. Its copy is of the same bytes: nothing else in a
// store could tell what its volumes are called.
const (
	refsFile = "refs/log"
	refsCopy = "refs/log.copy"
)

var refsFiles = []string{refsFile, refsCopy}

func refsID(store uuid.UUID) record.ID { return record.ID{Kind: record.Refs, Store: store} }

// streamAbove is the length in bytes above which a refs log that is good is opened without being read as a whole.
var streamAbove int64 = 64 << 20

// refsAhead is the room in bytes that is kept allocated behind the log's end: names can be deleted on a disk that
// others have filled to the last byte.
const refsAhead = 64 << 10

// refsLong is the length in bytes that no log is too long for.
const refsLong = 1 << 20

// refsFull is the length in bytes above which the log takes no new names: some four million snapshots. Settling and
// deleting go on.
var refsFull int64 = 1 << 30

// The operations of a refRecord.
const (
	opVolume       = "volume"        // ID, Name, Size, BlockSize, Verify, Time, Of
	opVolumeDelete = "volume-delete" // ID
	opHead         = "head"          // ID, Gen, Root, Logical, Dirs, Time: the volume has settled up to Gen
	opSnap         = "snapshot"      // ID, Name, Gen, Time; Root and Logical once settled
	opSnapDelete   = "snapshot-delete"
	opVerify       = "verify"   // ID, Verify
	opSegments     = "segments" // Gen: IDs below it may have been used; Dirs
	opMaxSize      = "max-size" // Size: what the store may take on disk; 0: no maximum
)

type refRecord struct {
	Op        string    `json:"op"`
	ID        uuid.UUID `json:"id,omitzero"`
	Name      string    `json:"name,omitempty"`
	Gen       uint64    `json:"gen,omitempty"`
	Root      string    `json:"root,omitempty"`
	Size      int64     `json:"size,omitempty"`
	BlockSize int       `json:"block_size,omitempty"`
	Logical   int64     `json:"logical,omitempty"`
	Verify    bool      `json:"verify,omitempty"`
	Time      time.Time `json:"time,omitzero"`
	// Of is what a scratch volume lies over, for people: an older varve does not know it.
	Of string `json:"of,omitempty"`
	// Dirs says how long the directories of segments were, in bytes, when the record was written: the objects that a
	// root needs are in them. One that is shorter, or gone with its segment not sealed, is damaged.
	Dirs map[uint32]int64 `json:"dirs,omitempty"`
}

type volumeRef struct {
	id        uuid.UUID
	name      string
	size      int64
	blockSize int
	created   time.Time
	gen       uint64      // settled up to here
	root      merkle.Hash // zero: nothing has settled yet, all zeroes
	settled   time.Time   // when that was; zero: never, or unknown
	logical   int64       // bytes
	verify    bool        // settled chunks are checked as they are read
	of        string      // VOLUME@SNAPSHOT under a scratch volume, if it is known
	snaps     map[string]*snapRef
	order     []*snapRef // the same in order of creation: by generation, and then as they were named
	unsettled []*snapRef // those of order that have not settled
}

type snapRef struct {
	name    string
	created time.Time
	gen     uint64
	root    merkle.Hash
	settled bool
	logical int64
	done    chan struct{} // closed when it has settled or is gone; nil in the refs log's own replay
}

// refs is the state that the log describes. Guarded by catalog.mu.
type refs struct {
	volumes  map[string]*volumeRef
	byID     map[uuid.UUID]*volumeRef
	roots    rootIndex
	segments uint64           // IDs below this may have been used
	maxSize  int64            // bytes; 0: none
	dirs     map[uint32]int64 // how long the directories of segments are at least, until they are sealed

	emptyRoot func(size int64) merkle.Hash // the root of an image of zeroes
}

func newRefs() *refs {
	return &refs{
		volumes: map[string]*volumeRef{}, byID: map[uuid.UUID]*volumeRef{}, roots: rootIndex{}, segments: 1, dirs: map[uint32]int64{},
		emptyRoot: func(int64) merkle.Hash { return merkle.Hash{} },
	}
}

func (r *refs) applyFrame(payload []byte) error {
	var recs []refRecord
	if err := json.Unmarshal(payload, &recs); err != nil {
		return err
	}
	for i := range recs {
		if err := r.apply(&recs[i]); err != nil {
			return fmt.Errorf("%s record: %w", recs[i].Op, err)
		}
	}
	return nil
}

func (r *refs) apply(rec *refRecord) error {
	var root merkle.Hash
	if rec.Root != "" {
		var err error
		if root, err = merkle.ParseHash(rec.Root); err != nil {
			return err
		}
	}
	for id, n := range rec.Dirs {
		r.dirs[id] = max(r.dirs[id], n)
	}
	switch rec.Op {
	case opSegments:
		r.segments = max(r.segments, rec.Gen)
		return nil
	case opMaxSize:
		if rec.Size < 0 {
			return fmt.Errorf("%w: size %d", ErrInvalid, rec.Size)
		}
		r.maxSize = rec.Size
		return nil
	case opVolume:
		if r.byID[rec.ID] != nil || r.volumes[rec.Name] != nil {
			return ErrExists
		}
		if rec.Size <= 0 || rec.Size > MaxVolumeSize || checkBlockSize(rec.BlockSize) != nil {
			return fmt.Errorf("%w: size %d, block size %d", ErrInvalid, rec.Size, rec.BlockSize)
		}
		v := &volumeRef{
			id: rec.ID, name: rec.Name, size: rec.Size, blockSize: rec.BlockSize, created: rec.Time,
			verify: rec.Verify, of: rec.Of, snaps: map[string]*snapRef{},
		}
		r.byID[v.id], r.volumes[v.name] = v, v
		r.roots.add(r.rootOf(v), v, 0)
		return nil
	}
	v := r.byID[rec.ID]
	if v == nil {
		return fmt.Errorf("volume %v: %w", rec.ID, ErrNotFound)
	}
	return v.apply(r, rec, root)
}

func (v *volumeRef) apply(r *refs, rec *refRecord, root merkle.Hash) error {
	switch rec.Op {
	case opVolumeDelete:
		delete(r.byID, v.id)
		delete(r.volumes, v.name)
		r.roots.remove(r.rootOf(v), v)
		for _, s := range v.order {
			if s.settled {
				r.roots.remove(s.root, v)
			}
		}
	case opHead:
		if rec.Gen < v.gen {
			return errors.New("generation goes back")
		}
		r.roots.remove(r.rootOf(v), v)
		v.gen, v.root, v.logical, v.settled = rec.Gen, root, rec.Logical, rec.Time
		r.roots.add(r.rootOf(v), v, v.logical)
	case opVerify:
		v.verify = rec.Verify
	case opSnap:
		s := v.snaps[rec.Name]
		if s == nil {
			s = &snapRef{name: rec.Name, created: rec.Time, gen: rec.Gen, done: make(chan struct{})}
			v.enlist(s)
		}
		if rec.Root != "" && !s.settled {
			s.root, s.logical, s.settled = root, rec.Logical, true
			v.unsettled = withoutSnap(v.unsettled, s)
			r.roots.add(root, v, s.logical)
			close(s.done)
		}
	case opSnapDelete:
		s := v.snaps[rec.Name]
		if s == nil {
			return ErrNotFound
		}
		if s.settled {
			r.roots.remove(s.root, v)
		} else {
			close(s.done)
		}
		delete(v.snaps, rec.Name)
		v.order, v.unsettled = withoutSnap(v.order, s), withoutSnap(v.unsettled, s)
	default:
		return errors.New("unknown operation")
	}
	return nil
}

// rootOf is the root that a volume has settled to.
func (r *refs) rootOf(v *volumeRef) merkle.Hash {
	if v.root.IsZero() {
		return r.emptyRoot(v.size)
	}
	return v.root
}

// enlist adds a snapshot, which is not settled yet.
func (v *volumeRef) enlist(s *snapRef) {
	v.snaps[s.name] = s
	v.order = slices.Insert(v.order, afterGen(v.order, s.gen), s)
	v.unsettled = slices.Insert(v.unsettled, afterGen(v.unsettled, s.gen), s)
}

// afterGen is where the snapshots of a generation end in a list that is in order of generation.
func afterGen(list []*snapRef, gen uint64) int {
	return sort.Search(len(list), func(i int) bool { return list[i].gen > gen })
}

// withoutSnap takes a snapshot out of a list that is in order of generation.
func withoutSnap(list []*snapRef, s *snapRef) []*snapRef {
	first := sort.Search(len(list), func(i int) bool { return list[i].gen >= s.gen })
	if i := slices.Index(list[first:], s); i >= 0 {
		return slices.Delete(list, first+i, first+i+1)
	}
	return list
}

// records are the shortest log that leads to the same state.
func (r *refs) records(yield func(refRecord) bool) {
	ok := yield(refRecord{Op: opSegments, Gen: r.segments, Dirs: r.dirs})
	if ok && r.maxSize > 0 {
		ok = yield(refRecord{Op: opMaxSize, Size: r.maxSize})
	}
	for _, v := range r.sorted() {
		ok = ok && yield(refRecord{Op: opVolume, ID: v.id, Name: v.name, Size: v.size, BlockSize: v.blockSize, Verify: v.verify, Time: v.created, Of: v.of}) &&
			yield(refRecord{Op: opHead, ID: v.id, Gen: v.gen, Root: v.root.String(), Logical: v.logical, Time: v.settled})
		for _, s := range v.order {
			rec := refRecord{Op: opSnap, ID: v.id, Name: s.name, Gen: s.gen, Time: s.created}
			if s.settled {
				rec.Root, rec.Logical = s.root.String(), s.logical
			}
			ok = ok && yield(rec)
		}
	}
}

// compactFrame is how many records a frame of a compacted log has at most.
const compactFrame = 1024

// frames are records as the payloads of a log that nobody reads until it is whole.
func (r *refs) frames(yield func(payload []byte) error) error {
	recs := make([]refRecord, 0, compactFrame)
	var err error
	flush := func() bool {
		var b []byte
		if b, err = json.Marshal(recs); err == nil {
			err = yield(b)
		}
		recs = recs[:0]
		return err == nil
	}
	r.records(func(rec refRecord) bool {
		recs = append(recs, rec)
		return len(recs) < compactFrame || flush()
	})
	if err == nil && len(recs) > 0 {
		flush()
	}
	return err
}

func (r *refs) sorted() []*volumeRef {
	out := make([]*volumeRef, 0, len(r.volumes))
	for _, v := range r.volumes {
		out = append(out, v)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

func checkBlockSize(n int) error {
	if n != 512 && n != 4096 {
		return fmt.Errorf("block size %d bytes: %w: want 512 or 4096", n, ErrInvalid)
	}
	return nil
}

// MaxName is the length of the longest name of a volume or snapshot, in bytes.
const MaxName = 128

// CheckName says what is wrong with the name of a volume or snapshot: 1 to MaxName letters, digits, '.', '_',
// '-', ':' and '+', the first a letter or digit.
func CheckName(what, name string) error {
	bad := func(why string) error {
		return fmt.Errorf("%s name %q %s: %w: use 1 to %d letters, digits, '.', '_', '-', ':' and '+', a letter or digit first", what, name, why, ErrInvalid, MaxName)
	}
	if name == "" {
		return bad("is empty")
	}
	if len(name) > MaxName {
		return bad(fmt.Sprintf("has %d characters", len(name)))
	}
	for i, c := range name {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-:+", c)) {
			return bad(fmt.Sprintf("has %q at position %d", c, i+1))
		}
	}
	return nil
}
