package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"

	"varve/objstore"
	"varve/objstore/vfs"
)

// memoryRun is the parameters of a run with a large volume.
type memoryRun struct {
	dir     string
	chunk   int    // bytes
	size    int64  // of the volume in bytes
	written int64  // bytes, all of them different
	heap    string // file for a profile of the heap
	keep    bool   // write the data to the disk
	options objstore.Options
}

// unit is the size of the writes in bytes, a quarter of a leaf: long enough to be quick, short enough
// for leaves to be written more than once.
func (m memoryRun) unit() int64 { return 64 * int64(m.chunk) }

// runMemory measures how much memory a store with a large volume takes, in this process: an engine,
// its index and Go's heap, which is what the daemon has but for its queues. runMemory writes MiBs
// all over the volume, no two chunks alike, settles it, and then reads at random until the caches
// are full. The data itself is not kept but generated again when it is read (regenerating), so that
// the disk has to hold the metadata alone.
func runMemory(ctx context.Context, args []string) error {
	var m memoryRun
	flags := m.flags("memory", 16<<30, 16<<10)
	flags.BoolVar(&m.keep, "keep", false, "keep the data on the disk, which has to hold all of it")
	flags.StringVar(&m.heap, "heap", "", "file for a profile of the heap in the end")
	flags.Int64Var(&m.options.LeafCache, "leaf-cache", 0, "bytes for loaded leaves; 0: the default")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return m.inStore(func(store string, gen *generator) error {
		s, err := objstore.Open(ctx, store, m.options)
		if err != nil {
			return err
		}
		return errors.Join(m.serve(ctx, s, gen), s.Close())
	})
}

// flags returns the flags that every run with a large volume has. The defaults of written and chunk
// are its own.
func (m *memoryRun) flags(name string, written int64, chunk int) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ExitOnError)
	f.StringVar(&m.dir, "dir", "", "directory for the store")
	f.Int64Var(&m.size, "size", 1<<40, "size of the volume in bytes")
	f.Int64Var(&m.written, "written", written, "bytes to write, all of them different")
	f.IntVar(&m.chunk, "chunk", chunk, "chunk size in bytes")
	return f
}

// inStore makes a store for a run, and removes it afterwards.
func (m *memoryRun) inStore(run func(store string, gen *generator) error) error {
	err := m.makeStore(run)
	return errors.Join(err, os.RemoveAll(m.store()))
}

// makeStore makes a store for a run, and leaves it.
func (m *memoryRun) makeStore(run func(store string, gen *generator) error) error {
	if err := objstore.Init(m.store(), objstore.InitOptions{ChunkSize: m.chunk}); err != nil {
		return err
	}
	gen := newGenerator(m.chunk)
	if !m.keep {
		m.options.FS = &regenerating{vfs.OS(m.store()), gen}
	}
	return run(m.store(), gen)
}

// store is the directory of the store.
func (m *memoryRun) store() string { return filepath.Join(m.dir, "store") }

func (m memoryRun) serve(ctx context.Context, s *objstore.Store, gen *generator) error {
	if _, err := s.CreateVolume(ctx, "big", objstore.VolumeOptions{Size: m.size}); err != nil {
		return err
	}
	v, err := s.OpenVolume("big", "bench")
	if err != nil {
		return err
	}
	printMemoryHeader()
	err = errors.Join(printMemory("opening", 0), m.write(ctx, s, v, gen))
	if err == nil {
		err = m.read(v)
	}
	if err == nil {
		err = printMemory("random reads all over", m.written)
	}
	if err == nil {
		debug.FreeOSMemory()
		err = printMemory("giving free heap back", m.written)
	}
	if err == nil && m.heap != "" {
		err = writeHeap(m.heap)
	}
	if st, serr := s.Stat(); err == nil && serr == nil {
		fmt.Printf("\nstored %d MiB in chunks, %d MiB of metadata, dedup ratio %.2f\n", st.Stored>>20, st.Metadata>>20, st.DedupRatio)
	}
	return errors.Join(err, v.Close())
}

// newGenerator returns a generator with the same random bytes each time.
func newGenerator(chunk int) *generator {
	g := &generator{chunk: chunk, rest: make([]byte, chunk-stampSize)}
	fill := rand.New(rand.NewPCG(1, 2))
	for i := range g.rest {
		g.rest[i] = byte(fill.Uint32())
	}
	return g
}

func writeHeap(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}

// write fills the volume and prints the memory at each doubling.
func (m memoryRun) write(ctx context.Context, s *objstore.Store, v *objstore.Volume, gen *generator) error {
	buf := make([]byte, m.unit())
	seed, next := uint64(1), int64(1<<30)
	for written := int64(0); written < m.written; {
		gen.fill(buf, seed)
		seed += uint64(len(buf) / gen.chunk)
		if _, err := v.WriteAt(buf, m.place(written/m.unit())); err != nil {
			return err
		}
		written += m.unit()
		if written != next && written != m.written {
			continue
		}
		next *= 2
		if err := printMemory("writing", written); err != nil {
			return err
		}
		if err := s.Settle(ctx); err != nil {
			return err
		}
		if err := printMemory("settling", written); err != nil {
			return err
		}
	}
	return nil
}

// place returns where the i-th write goes: a walk over the volume by a step that has no factor in
// common with its length, so that no offset is written twice.
func (m memoryRun) place(i int64) int64 {
	units := m.size / m.unit()
	step := units*618/1000 | 1
	for gcd(step, units) != 1 {
		step += 2
	}
	return i * step % units * m.unit()
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// read reads a block from each MiB that was written, in random order.
func (m memoryRun) read(v *objstore.Volume) error {
	buf := make([]byte, 4096)
	for _, i := range rand.Perm(int(m.written / m.unit())) {
		if _, err := v.ReadAt(buf, m.place(int64(i))); err != nil {
			return err
		}
	}
	return nil
}

func printMemoryHeader() {
	fmt.Printf("| after | written | resident | of which heap and stacks | of which mapped files | most so far |\n|---|---:|---:|---:|---:|---:|\n")
}

func printMemory(after string, written int64) error {
	kib, err := memoryStatus()
	if err != nil {
		return err
	}
	_, err = fmt.Printf("| %s | %.0f GiB | %d MiB | %d MiB | %d MiB | %d MiB |\n", after, float64(written)/(1<<30),
		kib["VmRSS"]>>10, kib["RssAnon"]>>10, (kib["RssFile"]+kib["RssShmem"])>>10, kib["VmHWM"]>>10)
	return err
}

// memoryStatus returns what /proc/self/status says of this process's memory, in KiB.
func memoryStatus() (map[string]int64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	kib := map[string]int64{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, value, _ := strings.Cut(sc.Text(), ":")
		if fields := strings.Fields(value); len(fields) == 2 && fields[1] == "kB" {
			kib[name], _ = strconv.ParseInt(fields[0], 10, 64)
		}
	}
	return kib, nil
}
