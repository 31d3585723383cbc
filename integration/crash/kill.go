package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"varve/integration/facts"
)

const killName = "machine: kills"

// A round boots the test kernel with a disk of its own, looks whether all is there that the rounds
// before were told, and works on it until the machine is killed, as a process of this host, at a
// random moment: mostly under load, sometimes while it comes up. The last round only looks.
//
// User-Mode Linux writes to its disk through the host's page cache, and in the order in which the
// guest wrote: what dies is what the guest had not written. So this is the death of a machine with
// a disk that keeps its order and loses nothing. Disks that lose and tear what was not flushed are
// the business of the other tests.
//
// What the rounds know stands in DIR/facts.jsonl, which the machine writes to this host line by
// line, synced, before it goes on; it does not pass through the disk that is being tested.

// kills does all the rounds, each half on another filesystem under the store.
func kills(ctx context.Context, o *options) outcome {
	began := time.Now()
	r := outcome{name: killName, counts: map[string]int{}, log: filepath.Join(o.out, "kills.log")}
	fail := func(err error) outcome {
		r.failed = append(r.failed, err.Error())
		r.took = time.Since(began)
		return r
	}
	log, err := os.Create(r.log)
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	if out, err := exec.CommandContext(ctx, "make", "-s", "build").CombinedOutput(); err != nil {
		return fail(fmt.Errorf("make build: %w: %s", err, out))
	}
	program := filepath.Join(o.out, "crash")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./integration/crash")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fail(fmt.Errorf("build the guest's program: %w: %s", err, out))
	}
	for i, lower := range []string{"ext4", "xfs"} {
		k := &killer{o: o, r: &r, log: log, program: program, lower: lower, dir: filepath.Join(o.out, "kill-"+lower)}
		k.rng = rand.New(rand.NewPCG(o.seed, uint64(i)))
		if err := k.run(ctx, (o.rounds+1-i)/2); err != nil {
			r.failed = append(r.failed, fmt.Sprintf("store on %s: %v; disk and facts are kept in %s", lower, err, k.dir))
			continue
		}
		_ = os.RemoveAll(k.dir)
	}
	r.took = time.Since(began)
	return r
}

// killer is one disk and the machines that live on it, one after the other.
type killer struct {
	o       *options
	r       *outcome
	log     *os.File
	program string
	lower   string
	dir     string
	rng     *rand.Rand
}

const (
	diskSize   = 4 << 30
	bootLimit  = 4 * time.Minute // for a machine to come up and check
	shortest   = 300 * time.Millisecond
	longest    = 6 * time.Second
	inRecovery = 5 // one in so many kills meets the machine while it comes up
)

func (k *killer) run(ctx context.Context, rounds int) error {
	if rounds == 0 {
		return nil
	}
	if err := os.RemoveAll(k.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return err
	}
	disk := filepath.Join(k.dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(disk, diskSize); err != nil {
		return err
	}
	for round := 0; round <= rounds; round++ {
		if err := k.round(ctx, round, round == rounds); err != nil {
			return fmt.Errorf("round %d of %d, seed %d: %w", round, rounds, k.o.seed, err)
		}
	}
	return nil
}

// round boots and kills once; the last machine of a disk checks and ends by itself.
func (k *killer) round(ctx context.Context, round int, last bool) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit+longest)
	defer cancel()
	name := filepath.Join(k.dir, fmt.Sprintf("round-%d.log", round))
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	guest := fmt.Sprintf("%s guest -dir %s -round %d -seed %d -lower %s -varve $PWD/bin/varve", k.program, k.dir, round, k.o.seed, k.lower)
	if last {
		guest += " -check"
	}
	cmd := exec.Command("integration/vm/run", "--mem", "2G", "--timeout", fmt.Sprint(int((bootLimit + longest).Seconds())), "--disk", filepath.Join(k.dir, "disk"), "--share", k.dir, "--", guest)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	end := func() error {
		_ = cmd.Process.Signal(syscall.SIGUSR1)
		return <-done
	}
	report := func(err error) error {
		b, _ := os.ReadFile(name)
		_, _ = k.log.Write(b)
		return fmt.Errorf("%w\n%s", err, tail(string(b), 40))
	}

	after, why := k.moment(round), "while it came up"
	timer := time.NewTimer(after)
	if last {
		timer.Stop()
	} else if after == 0 {
		timer.Stop()
		after, why = shortest+time.Duration(k.rng.Int64N(int64(longest-shortest))), "under load"
	}
	looking := time.NewTicker(20 * time.Millisecond)
	defer looking.Stop()
	for loaded := false; ; {
		select {
		case err := <-done:
			if last && err == nil {
				k.count(name)
				return nil
			}
			return report(fmt.Errorf("the machine ended by itself: %w", errors.Join(err, ctx.Err())))
		case <-ctx.Done():
			_ = end()
			return report(ctx.Err())
		case <-looking.C:
			if why == "under load" && !last && !loaded && k.underLoad(round) {
				loaded = true
				timer.Reset(after)
			}
		case <-timer.C:
			err := end()
			if code := cmd.ProcessState.ExitCode(); code != 137 {
				return report(fmt.Errorf("killed, and the status is %d: %w", code, err))
			}
			if err := k.complaint(name); err != nil {
				return report(err)
			}
			k.count(name)
			k.r.counts["kills"]++
			k.r.counts["kills "+why]++
			fmt.Fprintf(k.log, "store on %s, round %d: killed %s, after %v\n", k.lower, round, why, after.Round(time.Millisecond))
			return nil
		}
	}
}

// moment is when a machine is killed that is still coming up; 0 if it is to be killed under load.
func (k *killer) moment(round int) time.Duration {
	if round == 0 || k.rng.IntN(inRecovery) != 0 {
		return 0
	}
	return time.Duration(500+k.rng.IntN(3000)) * time.Millisecond
}

// underLoad reports whether the round's workload has begun.
func (k *killer) underLoad(round int) bool {
	list, err := readFacts(filepath.Join(k.dir, factsFile))
	if err != nil {
		return false
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].What == facts.Ready {
			return list[i].Count == uint64(round)
		}
	}
	return false
}

// complaint finds what a machine said that was killed before it could end by itself.
func (k *killer) complaint(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "guest: FAILED") {
			return errors.New(strings.TrimSpace(line))
		}
	}
	return nil
}

// count takes what a machine has checked.
func (k *killer) count(name string) { k.r.read(name) }

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
