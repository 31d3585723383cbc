package command

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pair of pseudo terminals: what is written to the second is read from the first.
func terminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("missing feature: pseudo terminals (%v)", err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Skipf("missing feature: pseudo terminals (%v)", err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return screen, tty
}

// shown is what a bar writes to a file on its way.
func shown(t *testing.T, tty, screen *os.File) string {
	t.Helper()
	b := newBar(tty, "check")
	b.update(30<<20, 100<<20)
	time.Sleep(time.Second)
	b.update(50<<20, 100<<20)
	time.Sleep(time.Second) // the bar is drawn every 200 ms
	b.end()
	return drawn(screen)
}

// drawn returns what was written to the terminal.
func drawn(screen *os.File) string {
	var out []byte
	buf := make([]byte, 64<<10)
	for {
		fds := []unix.PollFd{{Fd: int32(screen.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); err != nil || n == 0 {
			return string(out)
		}
		n, err := screen.Read(buf)
		if err != nil {
			return string(out)
		}
		out = append(out, buf[:n]...)
	}
}

// The bar of varve check counts in the units of everything else, has no colours, and is for
// terminals that can draw it.
func TestBar(t *testing.T) {
	screen, tty := terminal(t)
	t.Setenv("TERM", "xterm")
	text := shown(t, tty, screen)
	if !strings.Contains(text, "MiB") || strings.Contains(text, "MB") {
		t.Errorf("the bar is %q, want MiB", text)
	}
	if !regexp.MustCompile(`check, [0-9.]+MiB/s, ETA [0-9]+s`).MatchString(text) {
		t.Errorf("the bar is %q, want the rate and the time that is left", text)
	}
	if colour := regexp.MustCompile(`\x1b\[[0-9;]*m`).FindString(text); colour != "" {
		t.Errorf("the bar has the colour %q: %q", colour, text)
	}
	t.Setenv("TERM", "dumb")
	if text := shown(t, tty, screen); text != "" {
		t.Errorf("on a terminal that can't move its cursor the bar is %q", text)
	}
	t.Setenv("TERM", "xterm")
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	b := newBar(file, "check")
	b.update(1, 2)
	b.end()
	if st, err := file.Stat(); err != nil || st.Size() > 0 {
		t.Errorf("in a file the bar has %d bytes (%v)", st.Size(), err)
	}
}

// A bar that ends before anything was said of what is done shows what was done.
func TestBarOfSomethingQuick(t *testing.T) {
	screen, tty := terminal(t)
	t.Setenv("TERM", "xterm")
	b := newBar(tty, "check")
	for !b.w.IsRenderInProgress() {
		time.Sleep(time.Millisecond)
	}
	b.complete(42 << 20)
	b.end()
	if text := drawn(screen); !strings.Contains(text, "42MiB") {
		t.Errorf("the bar is %q, want 42MiB", text)
	}
}
