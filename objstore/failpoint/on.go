//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// plan is what the environment asks for.
type plan struct {
	log   *os.File
	haste time.Duration

	mu     sync.Mutex
	passed map[Point]int
	kill   map[Point]int // at which passing
	fails  map[Point]int // how often still
}

var thePlan = sync.OnceValue(func() *plan {
	p := &plan{
		passed: map[Point]int{}, haste: 1,
		kill: counts("VARVE_FAILPOINT", Points()), fails: counts("VARVE_FAILPOINT_ERROR", []Point{QuiesceFails, RecoverFails, QueueFails, IndexFails}),
	}
	if n, err := strconv.Atoi(os.Getenv("VARVE_FAILPOINT_HASTE")); err == nil {
		p.haste = time.Duration(max(n, 1))
	}
	if path := os.Getenv("VARVE_FAILPOINT_LOG"); path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			panic(err)
		}
		p.log = f
	}
	return p
})

// counts parses NAME:N,NAME:N from an environment variable.
func counts(variable string, known []Point) map[Point]int {
	m := map[Point]int{}
	for _, word := range strings.FieldsFunc(os.Getenv(variable), func(r rune) bool { return r == ',' }) {
		name, n, _ := strings.Cut(word, ":")
		count, err := strconv.Atoi(n)
		if err != nil || count < 1 || !slices.Contains(known, Point(name)) {
			panic(fmt.Sprintf("%s has %q: want NAME:N, a name of package failpoint", variable, word))
		}
		m[Point(name)] = count
	}
	return m
}

// Here marks that a point is reached, and kills the process if the environment asks for that.
func Here(point Point) {
	p := thePlan()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed[point]++
	n := p.passed[point]
	if p.log != nil && n == 1 {
		fmt.Fprintln(p.log, point)
	}
	if n == p.kill[point] {
		if p.log != nil {
			fmt.Fprintln(p.log, "killed", point)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // nothing comes after it
	}
}

// Err returns the error with which an operation should fail, or nil.
func Err(point Point) error {
	p := thePlan()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails[point] == 0 {
		return nil
	}
	p.fails[point]--
	return fmt.Errorf("%s: failed on purpose: %w", point, unix.EBUSY)
}

// Limit returns a time limit, divided by VARVE_FAILPOINT_HASTE.
func Limit(d time.Duration) time.Duration { return d / thePlan().haste }
