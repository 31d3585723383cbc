package main

import (
	"bytes"
	"regexp"
	"sync"
	"time"
)

// saysStuck matches the line that a test program prints when its time is over. If a thread of it
// waits in the kernel, it can't end, nor can the machine halt. (Tests of ./integration have limits
// of their own, and have the machine killed.)
var saysStuck = regexp.MustCompile(`^\x16?panic: test timed out after `)

// stuckWatch is a writer that reads a test program's output. When it has said that it is stuck, and
// then has said nothing more for a while, so that its report is complete, end is called, once.
type stuckWatch struct {
	quiet time.Duration
	end   func()

	mu    sync.Mutex
	line  []byte // what has come of the line so far
	timer *time.Timer
}

const maxLine = 4096 // of a line that is looked at

func (w *stuckWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Reset(w.quiet) // no end is called twice: it is idempotent
		return len(p), nil
	}
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		if len(w.line) < maxLine {
			w.line = append(w.line, line...)
		}
		rest = after
		if !whole {
			break
		}
		if saysStuck.Match(w.line) {
			w.timer = time.AfterFunc(w.quiet, w.end)
			break
		}
		w.line = w.line[:0]
	}
	return len(p), nil
}

// stop is called when the program has ended.
func (w *stuckWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}
