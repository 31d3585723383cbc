package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"varve/objstore"
)

// engineBeside measures I/O of an engine in this process beside a collection, as besideRun does that
// of a device: on a machine without ublk, and without what a device adds.
type engineBeside struct {
	besideRun
	s              *objstore.Store
	volume, victim *objstore.Volume
	rng            *rand.Rand
	seed           uint64 // of what was written last
}

// engineSize is the size of the volume that is measured, in bytes.
const engineSize = 512 << 20

// deadPiece is how many bytes die in one place.
const deadPiece = 64 << 10

func (r besideRun) inEngine(ctx context.Context, steps []string) error {
	e := &engineBeside{besideRun: r, rng: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))}
	dir := r.dir + "/store"
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		return err
	}
	var err error
	if e.s, err = objstore.Open(ctx, dir, objstore.Options{CollectNice: 10}); err == nil {
		err = errors.Join(e.run(ctx, steps), e.s.Close())
	}
	return errors.Join(err, os.RemoveAll(dir))
}

func (e *engineBeside) run(ctx context.Context, steps []string) error {
	for _, v := range []struct {
		name string
		to   **objstore.Volume
		size int64
	}{{"bench", &e.volume, engineSize}, {"other", &e.victim, e.cold + 2*e.dead}} {
		if _, err := e.s.CreateVolume(ctx, v.name, objstore.VolumeOptions{Size: v.size}); err != nil {
			return err
		}
		var err error
		if *v.to, err = e.s.OpenVolume(v.name, "bench"); err != nil {
			return err
		}
		defer (*v.to).Close()
		if err := writeRandom(*v.to, v.size, &e.seed); err != nil {
			return err
		}
	}
	if err := e.s.Settle(ctx); err != nil {
		return err
	}
	for _, name := range steps {
		s, ok := stepNamed(name, engineSize)
		if !ok {
			return fmt.Errorf("no such step %q", name)
		}
		for round := range e.rounds {
			for k := range e.rates {
				if err := e.take(ctx, s, e.rates[(k+round)%len(e.rates)]); err != nil {
					return err
				}
			}
		}
	}
	e.report(steps, "engine")
	return nil
}

// take has data die, and takes a sample at a rate. Whatever the rate, all is collected afterwards.
func (e *engineBeside) take(ctx context.Context, s step, rate string) error {
	buf := make([]byte, deadPiece)
	for range e.dead / deadPiece {
		e.seed++
		randomBytes(buf, e.seed)
		if _, err := e.victim.WriteAt(buf, e.rng.Int64N((e.cold+2*e.dead)/deadPiece)*deadPiece); err != nil {
			return err
		}
	}
	if err := e.s.Settle(ctx); err != nil {
		return err
	}
	limit, ok := map[string]int64{"off": objstore.NoCollectLimit, "64M": 64 << 20, "dry": 64 << 20, "none": objstore.NoCollectLimit}[rate]
	if !ok {
		return fmt.Errorf("rate %q: want off, 64M, dry or none", rate)
	}
	e.s.SetCollectRate(limit)
	smp, err := e.sample(ctx, s, rate)
	if err != nil {
		return err
	}
	e.keep(s, rate, smp)
	if rate == "off" || rate == "dry" {
		_, err = e.s.Collect(ctx, objstore.CollectOptions{})
	}
	return err
}

// sample does I/O for a while, beside a collection, or one dry run after another, or none.
func (e *engineBeside) sample(ctx context.Context, s step, rate string) (besideSample, error) {
	var g errgroup.Group
	var r objstore.CollectReport
	began := time.Now()
	if rate != "off" {
		g.Go(func() (err error) {
			for err == nil && (r.Seconds == 0 || rate == "dry" && time.Since(began) < e.runtime) {
				r, err = e.s.Collect(ctx, objstore.CollectOptions{DryRun: rate == "dry"})
			}
			return err
		})
	}
	took, err := e.load(s)
	ran := time.Since(began).Seconds()
	if err = errors.Join(err, g.Wait()); err != nil {
		return besideSample{}, err
	}
	var sum time.Duration
	for _, d := range took {
		sum += d
	}
	slices.Sort(took)
	covered := min(r.Seconds/ran, 1)
	if rate == "dry" {
		covered = 1
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return besideSample{
		sample: sample{
			IOs: float64(len(took)), IOPS: float64(len(took)) / ran, Mean: us(sum) / float64(len(took)), P99: us(took[len(took)*99/100]),
		},
		covered: covered, seconds: r.Seconds, freed: r.Freed, objects: r.Dead,
	}, nil
}

// load does the I/O of a step for as long as a run takes, and returns how long each took.
func (e *engineBeside) load(s step) ([]time.Duration, error) {
	var g errgroup.Group
	var mu sync.Mutex
	var all []time.Duration
	until := time.Now().Add(e.runtime)
	for i := range s.Depth {
		rng := rand.New(rand.NewPCG(e.rng.Uint64(), uint64(i)))
		g.Go(func() error {
			var took []time.Duration
			buf := make([]byte, s.Block)
			for began := time.Now(); began.Before(until); {
				err := e.request(s, buf, rng)
				now := time.Now()
				if err != nil {
					return err
				}
				took = append(took, now.Sub(began))
				began = now
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			return nil
		})
	}
	err := g.Wait()
	return all, err
}

// request does one I/O of a step.
func (e *engineBeside) request(s step, buf []byte, rng *rand.Rand) error {
	off := rng.Int64N(engineSize/int64(s.Block)) * int64(s.Block)
	if !s.writes() {
		_, err := e.volume.ReadAt(buf, off)
		return err
	}
	for i := 0; i < len(buf); i += 512 {
		buf[i], buf[i+1], buf[i+2] = byte(rng.Uint32()), byte(off>>12), byte(off>>20)
	}
	if _, err := e.volume.WriteAt(buf, off); err != nil || !s.Fsync {
		return err
	}
	return e.volume.Flush()
}
