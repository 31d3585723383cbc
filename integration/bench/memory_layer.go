package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"sort"
	"strings"
	"sync"

	"varve/objstore/vfs"
)

// regenerating is a file layer for a store whose data would not fit on the disk. It does not keep
// bytes of a segment that come from its generator: it records where they were written and from
// which seed on, 24 bytes for each write, and generates them again when they are read. All else
// (headers, tree nodes, object logs, footers, journals) is in real files, with holes where the data
// would be.
type regenerating struct {
	vfs.FS
	gen *generator
}

// generator makes chunks no two of which are alike: the seed, a mark, and the same random bytes.
type generator struct {
	chunk int
	rest  []byte // of a chunk, behind the stamp
}

const (
	stampSize = 16
	stampMark = 0x9e3779b97f4a7c15
)

// fill makes the chunks of seeds first, first+1, … in b, which holds whole ones.
func (g *generator) fill(b []byte, first uint64) {
	for ; len(b) > 0; b = b[g.chunk:] {
		g.stamp(b, first)
		copy(b[stampSize:g.chunk], g.rest)
		first++
	}
}

func (g *generator) stamp(b []byte, seed uint64) {
	binary.LittleEndian.PutUint64(b, seed)
	binary.LittleEndian.PutUint64(b[8:], seed^stampMark)
}

// recognize returns the seed from which on b was generated. It compares every byte.
func (g *generator) recognize(b []byte) (first uint64, ok bool) {
	if len(b) == 0 || len(b)%g.chunk != 0 {
		return 0, false
	}
	first = binary.LittleEndian.Uint64(b)
	for seed := first; len(b) > 0; b, seed = b[g.chunk:], seed+1 {
		if binary.LittleEndian.Uint64(b) != seed || binary.LittleEndian.Uint64(b[8:]) != seed^stampMark ||
			!bytes.Equal(b[stampSize:g.chunk], g.rest) {
			return 0, false
		}
	}
	return first, true
}

// at generates the bytes from off on of the run of chunks that begins with seed first.
func (g *generator) at(p []byte, first uint64, off int64) {
	for len(p) > 0 {
		seed, in := first+uint64(off/int64(g.chunk)), int(off%int64(g.chunk))
		n := min(len(p), g.chunk-in)
		var stamp [stampSize]byte
		g.stamp(stamp[:], seed)
		done := 0
		if in < stampSize {
			done = copy(p[:n], stamp[in:])
		}
		if done < n {
			copy(p[done:n], g.rest[in+done-stampSize:])
		}
		p, off = p[n:], off+int64(n)
	}
}

// Create implements vfs.FS.
func (r *regenerating) Create(name string) (vfs.File, error) { return r.wrap(name)(r.FS.Create(name)) }

// Open implements vfs.FS.
func (r *regenerating) Open(name string) (vfs.File, error) { return r.wrap(name)(r.FS.Open(name)) }

func (r *regenerating) wrap(name string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil || !strings.HasSuffix(name, ".seg") {
			return f, err
		}
		return &segmentFile{File: f, gen: r.gen}, nil
	}
}

// segmentFile is a segment. A store opens each once.
type segmentFile struct {
	vfs.File
	gen  *generator
	mu   sync.RWMutex
	runs []dataRun // in order of off; they do not overlap, as a segment is only appended to
}

type dataRun struct {
	off, length int64
	first       uint64 // seed
}

// FD returns no descriptor, since the bytes are not in the file.
func (f *segmentFile) FD(int64) int { return -1 }

func (f *segmentFile) WriteAt(p []byte, off int64) (int, error) {
	first, ok := f.gen.recognize(p)
	if !ok {
		return f.File.WriteAt(p, off)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	i := sort.Search(len(f.runs), func(i int) bool { return f.runs[i].off > off })
	f.runs = append(f.runs, dataRun{})
	copy(f.runs[i+1:], f.runs[i:])
	f.runs[i] = dataRun{off, int64(len(p)), first}
	return len(p), nil
}

func (f *segmentFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	end := off + int64(len(p))
	i := sort.Search(len(f.runs), func(i int) bool { return f.runs[i].off+f.runs[i].length > off })
	if i == len(f.runs) || f.runs[i].off > off || f.runs[i].off+f.runs[i].length < end {
		// Not within one run: what is in the file, with what is in runs on top of it.
		if n, err := f.File.ReadAt(p, off); err != nil && (err != io.EOF || n < len(p)) { //nolint:errorlint // ReadAt returns it unwrapped
			return n, err
		}
	}
	for ; i < len(f.runs) && f.runs[i].off < end; i++ {
		r := f.runs[i]
		from, to := max(r.off, off), min(r.off+r.length, end)
		f.gen.at(p[from-off:to-off], r.first, from-r.off)
	}
	return len(p), nil
}

// Punch forgets the runs that lie whole in the range. A store punches no part of a run.
func (f *segmentFile) Punch(off, length int64) error {
	f.mu.Lock()
	kept := f.runs[:0]
	for _, r := range f.runs {
		if r.off < off || r.off+r.length > off+length {
			kept = append(kept, r)
		}
	}
	f.runs = kept
	f.mu.Unlock()
	return f.File.Punch(off, length)
}
