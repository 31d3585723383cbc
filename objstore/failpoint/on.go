//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// plan is what the environment asks of this process.
type plan struct {
	fails Point
	log   *os.File

	mu     sync.Mutex
	passed map[Point]int
	kill   map[Point]int // at which passing
}

var thePlan = sync.OnceValue(func() *plan {
	p := &plan{passed: map[Point]int{}, kill: map[Point]int{}, fails: Point(os.Getenv("VARVE_FAILPOINT_ERROR"))}
	for _, word := range strings.FieldsFunc(os.Getenv("VARVE_FAILPOINT"), func(r rune) bool { return r == ',' }) {
		name, n, _ := strings.Cut(word, ":")
		at, err := strconv.Atoi(n)
		if err != nil || at < 1 || !slices.Contains(Points(), Point(name)) {
			panic(fmt.Sprintf("VARVE_FAILPOINT has %q: want NAME:N, a point of package failpoint", word))
		}
		p.kill[Point(name)] = at
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

// Here passes a point.
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

// Err is why an operation should fail.
func Err(point Point) error {
	if thePlan().fails == point {
		return fmt.Errorf("%s: %w", point, unix.EBUSY)
	}
	return nil
}
