package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"varve/integration/facts"
)

// loadLimit ends a machine that is not killed.
const loadLimit = 2 * time.Minute

// load works until the machine is killed.
func (g *guest) load() error {
	dirs := map[string]string{}
	for _, v := range volumes {
		dir, err := g.mount(v.name)
		if err != nil {
			return err
		}
		dirs[v.name] = dir
	}
	raw, err := g.startRaw()
	if err != nil {
		return err
	}
	if err := g.book.note(facts.Fact{What: facts.Ready, Count: uint64(g.round)}); err != nil {
		return err
	}
	failed := make(chan error, 8)
	for i, v := range volumes {
		r := func(n uint64) *rand.Rand {
			return rand.New(rand.NewPCG(g.seed+uint64(g.round), uint64(i)*10+n))
		}
		go func() { failed <- g.files(v.name, dirs[v.name], r(1)) }()
		go func() { failed <- churn(filepath.Join(dirs[v.name], fmt.Sprintf("churn-%d", g.round%3)), r(2)) }()
	}
	go func() { failed <- raw() }()
	go func() { failed <- g.snapshots(rand.New(rand.NewPCG(g.seed, uint64(g.round)))) }()
	select {
	case err := <-failed:
		return fmt.Errorf("under load: %w", err)
	case <-time.After(loadLimit):
		return fmt.Errorf("nobody has killed the machine in %v", loadLimit)
	}
}

// files makes files durable and reports them, and unlinks old ones.
func (g *guest) files(volume, dir string, r *rand.Rand) error {
	const kept = 40
	var old []string
	for id, f := range facts.Expect(g.book.snapshot()).Files {
		if id.Volume == volume {
			old = append(old, f.Name)
		}
	}
	for i := 0; ; i++ {
		f := facts.Fact{What: facts.File, Volume: volume, Name: fmt.Sprintf("d%d/r%d-%d", i%4, g.round, i), Size: 1 + r.IntN(300<<10), Seed: r.Uint64()}
		if err := f.Write(dir); err != nil {
			return err
		}
		if err := g.book.note(f); err != nil {
			return err
		}
		old = append(old, f.Name)
		if len(old) <= kept {
			continue
		}
		u := facts.Fact{What: facts.Unlink, Volume: volume, Name: old[0]}
		old = old[1:]
		if err := g.book.note(u); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(dir, u.Name)); err != nil {
			return err
		}
	}
}

// snapshot copies what was noted so far.
func (n *notebook) snapshot() []facts.Fact {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]facts.Fact(nil), n.list...)
}

// churn keeps a filesystem's metadata moving, and promises nothing: files are made, grown, cut,
// punched, linked, renamed and removed at random, as fsstress does.
func churn(dir string, r *rand.Rand) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	name := func() string { return filepath.Join(dir, fmt.Sprint(r.IntN(8)), fmt.Sprint(r.IntN(40))) }
	for i := 0; ; i++ {
		if i%1000 == 0 {
			for d := range 8 {
				if err := os.MkdirAll(filepath.Join(dir, fmt.Sprint(d)), 0o755); err != nil {
					return err
				}
			}
		}
		if err := churnOnce(name(), name(), r); err != nil && !os.IsNotExist(err) && !os.IsExist(err) {
			return err
		}
	}
}

func churnOnce(a, b string, r *rand.Rand) error {
	switch r.IntN(10) {
	case 0:
		return os.Rename(a, b)
	case 1:
		return os.Link(a, b)
	case 2:
		return os.Remove(a)
	case 3:
		return os.Truncate(a, r.Int64N(200<<10))
	case 4:
		return os.Chmod(a, os.FileMode(0o600+r.IntN(64)))
	case 5:
		return os.Symlink(b, a+".link")
	case 6:
		return os.Remove(a + ".link")
	}
	f, err := os.OpenFile(a, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1+r.IntN(64<<10))
	for i := range buf {
		buf[i] = byte(r.Uint32())
	}
	if _, err := f.WriteAt(buf, r.Int64N(200<<10)); err != nil {
		return err
	}
	switch r.IntN(12) {
	case 0:
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Int64N(100<<10), 1+r.Int64N(100<<10))
	case 1:
		return f.Sync()
	}
	return nil
}

// snapshots makes and deletes snapshots of all volumes.
func (g *guest) snapshots(r *rand.Rand) error {
	names := []string{"e", "x", rawVolume}
	there := map[string][]string{}
	for id := range facts.Expect(g.book.snapshot()).Snapshots {
		there[id.Volume] = append(there[id.Volume], id.Name)
	}
	for i := 0; ; i++ {
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		v := names[r.IntN(len(names))]
		f := facts.Fact{What: facts.Snapshot, Volume: v, Name: fmt.Sprintf("r%d-%d", g.round, i)}
		var err error
		if f.Root, err = g.do("snapshot", "create", v+"@"+f.Name, "--wait"); err != nil {
			return err
		}
		if err := g.book.note(f); err != nil {
			return err
		}
		if there[v] = append(there[v], f.Name); len(there[v]) <= 2 {
			continue
		}
		d := facts.Fact{What: facts.SnapshotDelete, Volume: v, Name: there[v][0]}
		there[v] = there[v][1:]
		if err := g.book.note(d); err != nil {
			return err
		}
		if _, err := g.do("snapshot", "delete", v+"@"+d.Name); err != nil {
			return err
		}
		d.What = facts.SnapshotGone
		if err := g.book.note(d); err != nil {
			return err
		}
	}
}
