package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// The test kernel cannot tell when it did not have the processor: to it, time goes on. So a process
// outside records how much processor time its processes get, and its records are joined with the
// samples by the clock afterwards. As the machine has one processor and its disks are memory, it is
// never idle while an I/O is under way, and I/Os per second of processor time are what an
// undisturbed machine would do in a second.

// How often the processor time is recorded, and after how many records the watcher looks for new
// processes.
const (
	watchStep   = 25 * time.Millisecond
	watchRescan = 6
)

// runWatch records the processor time of the machine that a process has started, until that process
// ends.
func runWatch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("watch", flag.ExitOnError)
	parent := flags.Int("parent", 0, "pid of integration/vm/run")
	out := flags.String("out", "watch.log", "file to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	notes := bufio.NewWriter(f)
	w := watcher{parent: *parent, threads: map[string]*thread{}}
	tick := time.NewTicker(watchStep)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil && w.alive(); i++ {
		if i%watchRescan == 0 {
			w.rescan()
		}
		if w.machine != 0 {
			w.advance()
			fmt.Fprintln(notes, time.Now().UnixNano(), w.total, w.missed())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return errors.Join(notes.Flush(), f.Close())
}

// watcher adds up the processor time of the machine's threads: those of its main process, and those
// of its children, each of which is a process of the guest.
type watcher struct {
	parent, machine int
	threads         map[string]*thread // by path of schedstat
	total           int64              // nanoseconds
	ended           int64              // nanoseconds in total of children that have ended
}

// thread is a watched thread. Its file stays open, which makes reading it cheap.
type thread struct {
	stat  *os.File
	child bool  // of a child of the machine's main process
	seen  int64 // nanoseconds that are in total
}

func (w *watcher) alive() bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", w.parent))
	return err == nil
}

func (w *watcher) rescan() {
	if w.machine == 0 {
		if w.machine = findMachine(w.parent); w.machine == 0 {
			return
		}
	}
	for _, pid := range append(children(w.machine), w.machine) {
		paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			continue
		}
		for _, path := range paths {
			if w.threads[path] != nil {
				continue
			}
			if f, err := os.Open(path); err == nil {
				w.threads[path] = &thread{stat: f, child: pid != w.machine}
			}
		}
	}
}

// advance adds the processor time of the threads since the last call.
func (w *watcher) advance() {
	var buf [64]byte
	for path, t := range w.threads {
		n, err := t.stat.ReadAt(buf[:], 0)
		if n == 0 && err != nil {
			_ = t.stat.Close() // it has ended
			delete(w.threads, path)
			if t.child {
				w.ended += t.seen
			}
			continue
		}
		ran, _, _ := strings.Cut(string(buf[:n]), " ")
		if ns, err := strconv.ParseInt(ran, 10, 64); err == nil {
			w.total += ns - t.seen
			t.seen = ns
		}
	}
}

// missed returns the nanoseconds that children which have ended took beside what is in total: some
// were there between two rescans only, and all took some after they were last read. The kernel
// counts them in ticks, and when the main process has waited for them, so that this is for long
// windows.
func (w *watcher) missed() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.machine))
	if err != nil {
		return 0
	}
	const ofChildren, tick = 13, 10_000_000 // cutime and cstime, behind the name; nanoseconds of a tick
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks int64
	for _, field := range fields[min(len(fields), ofChildren):min(len(fields), ofChildren+2)] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return ticks*tick - w.ended
}

// findMachine returns the test kernel's main process, 0 while there is none.
func findMachine(parent int) int {
	for _, pid := range children(parent) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(comm)) == "linux.uml" {
			return pid
		}
	}
	return 0
}

// children lists the processes that a process has started.
func children(parent int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var pids []int
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		// pid (name) state ppid; the name may hold anything.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(path, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// window is a stretch of the guest's clock, in Unix nanoseconds.
type window struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

func since(from time.Time) window { return window{from.UnixNano(), time.Now().UnixNano()} }

// clockOffset returns how far the host's clock is ahead of the guest's, in nanoseconds. dir is on
// the host's filesystem, where a new file gets its time from the host.
func clockOffset(dir string) (int64, error) {
	path := filepath.Join(dir, "clock")
	defer os.Remove(path)
	var offsets []int64
	for range 9 {
		before := time.Now()
		if err := os.WriteFile(path, []byte(before.String()), 0o600); err != nil {
			return 0, err
		}
		after := time.Now()
		st, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		middle := before.Add(after.Sub(before) / 2)
		offsets = append(offsets, st.ModTime().UnixNano()-middle.UnixNano())
		time.Sleep(7 * time.Millisecond)
	}
	slices.Sort(offsets)
	return offsets[len(offsets)/2], nil
}

// cpuLog is the output of runWatch.
type cpuLog struct {
	at, total []int64 // host's Unix nanoseconds, nanoseconds of processor time so far
}

// readCPULog reads it; with whole, what was missed of processes that came and went is counted too.
func readCPULog(path string, whole bool) (*cpuLog, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var l cpuLog
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var at, total, missed int64
		if _, err := fmt.Sscan(sc.Text(), &at, &total, &missed); err != nil {
			break // the end of a watch that is still going on
		}
		if whole {
			total += missed
		}
		l.at, l.total = append(l.at, at), append(l.total, total)
	}
	return &l, sc.Err()
}

// until returns the processor time up to a moment, interpolated.
func (l *cpuLog) until(at int64) float64 {
	i := sort.Search(len(l.at), func(i int) bool { return l.at[i] >= at })
	switch {
	case i == 0 || i == len(l.at):
		return 0
	default:
		part := float64(at-l.at[i-1]) / float64(l.at[i]-l.at[i-1])
		return float64(l.total[i-1]) + part*float64(l.total[i]-l.total[i-1])
	}
}

// spent returns the processor time in seconds in a window of the guest's clock.
func (l *cpuLog) spent(w window, offset int64) float64 {
	return (l.until(w.To+offset) - l.until(w.From+offset)) / 1e9
}

// charge computes the host's processor time of each sample, less what fio takes by itself.
func (r *results) charge(l *cpuLog) {
	var startups []float64
	for _, w := range r.Startups {
		startups = append(startups, l.spent(w, r.ClockOffset))
	}
	base := middle(startups)
	for _, contenders := range r.Samples {
		for _, samples := range contenders {
			for i := range samples {
				s := &samples[i]
				s.HostCPU = max(0, l.spent(s.Window, r.ClockOffset)-base) * 1e6 / s.IOs
				if s.Settling.To > 0 {
					s.SettleCPU = l.spent(s.Settling, r.ClockOffset)
				}
			}
		}
	}
}

// middle returns the median, or 0 without values. It sorts values.
func middle(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	slices.Sort(values)
	if n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[n/2]
}
