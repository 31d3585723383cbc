package command

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"golang.org/x/term"
)

// bar shows progress in bytes on a terminal, with the rate and the time that is left.
type bar struct {
	what  string
	w     progress.Writer // nil: not a terminal
	t     progress.Tracker
	began time.Time // of the first update
	first int64     // done then: by an earlier process
	count bool      // of things that are no bytes
}

// newBar returns a bar, which shows nothing if out is not a terminal.
func newBar(out io.Writer, what string) *bar {
	return newBarOf(out, what, progress.Units{Formatter: formatSize}, false)
}

// newCountBar is newBar for a number of things that are no bytes.
func newCountBar(out io.Writer, what string) *bar {
	return newBarOf(out, what, progress.UnitsDefault, true)
}

func newBarOf(out io.Writer, what string, units progress.Units, count bool) *bar {
	b := &bar{what: what, count: count, t: progress.Tracker{Message: what, Units: units}}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return b
	}
	b.w = progress.NewWriter()
	b.w.SetOutputWriter(out)
	b.w.SetUpdateFrequency(200 * time.Millisecond)
	b.w.AppendTracker(&b.t)
	go b.w.Render()
	return b
}

// update shows how many bytes of how many are done.
func (b *bar) update(done, total int64) {
	if b.began.IsZero() {
		b.began, b.first = time.Now(), done
	}
	b.t.UpdateTotal(total)
	b.t.SetValue(done)
	// The library's own estimate begins at one percent, and counts what was done before.
	took := time.Since(b.began)
	if rate := float64(done-b.first) / took.Seconds(); took >= time.Second && rate >= 1 {
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		per := formatSize(int64(rate))
		if b.count {
			per = fmt.Sprintf("%.0f", rate)
		}
		b.t.UpdateMessage(fmt.Sprintf("%s, %s/s, ETA %v", b.what, per, left.Round(time.Second)))
	}
}

// complete shows that all is done, n bytes if nothing was said of their number before.
func (b *bar) complete(n int64) {
	if b.began.IsZero() {
		b.t.UpdateTotal(n)
		b.t.SetValue(n)
		return
	}
	b.t.SetValue(b.t.Total)
}

func (b *bar) end() {
	if b.w == nil {
		return
	}
	b.t.UpdateMessage(b.what)
	b.t.MarkAsDone()
	for b.w.IsRenderInProgress() && b.w.LengthActive() > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	b.w.Stop()
}
