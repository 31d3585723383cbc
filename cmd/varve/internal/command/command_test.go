package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"varve/objstore"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"4096": 4096, "10G": 10 << 30, "10g": 10 << 30, "512MiB": 512 << 20, "512mb": 512 << 20, "1.5T": 3 << 39, "1 K": 1024,
		"0": 0, "7B": 7, "1P": 1 << 50,
	} {
		if got, err := parseSize(in); got != want || err != nil {
			t.Errorf("%q is %d (%v), want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "G", "-1G", "+1", "10X", "10GG", "1e3", "0x10", "1.G", ".5G", "NaN", "Inf", " 1", "1\n", "1,5G"} {
		if got, err := parseSize(in); err == nil || !strings.Contains(err.Error(), "write one like") {
			t.Errorf("%q is %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"9000P", "99999999999999999999", "99999999999999999999G"} {
		if got, err := parseSize(in); err == nil || !strings.Contains(err.Error(), "too large") {
			t.Errorf("%q is %d, %v", in, got, err)
		}
	}
}

// What a size is written as reads as the same size: flags go to the process in the background so.
func TestSizeReadsBack(t *testing.T) {
	for _, n := range []int64{1, 511, 512, 1024, 1536, 16 << 10, 3 << 20, 10 << 30, 1<<40 + 1, objstore.MaxVolumeSize} {
		s, back := size(n), size(0)
		if err := back.Set(s.String()); err != nil || back != s {
			t.Errorf("%d is written %q and read %d (%v)", n, s.String(), back, err)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"10G", "1.5T", "-1", "99999999P", "0.1B", "1 KiB", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		n, err := parseSize(in)
		if err == nil && (n < 0 || n == math.MaxInt64) {
			t.Errorf("%q is %d", in, n)
		}
	})
}

// fullDisk is where output goes that is lost.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, unix.ENOSPC }

func TestLostOutput(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"--help"}} {
		var stderr bytes.Buffer
		if code := Run(t.Context(), args, fullDisk{}, &stderr); code != exitError || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("varve %v: status %d, %q", args, code, &stderr)
		}
	}
}

// A signal ends the wait for a lock, and the wait is no busy one.
func TestWhenUnlocked(t *testing.T) {
	a := &app{store: t.TempDir()}
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := a.whenUnlocked(ctx, func() error {
		if tries++; tries == 2 {
			cancel()
		}
		return objstore.ErrStoreLocked
	})
	if !errors.Is(err, objstore.ErrStoreLocked) || tries != 2 {
		t.Errorf("%v after %d tries, want 2", err, tries)
	}
	tries = 0
	if err := a.whenUnlocked(t.Context(), func() error {
		if tries++; tries == 3 {
			return nil
		}
		return objstore.ErrStoreLocked
	}); err != nil {
		t.Error(err)
	}
}

func TestDoing(t *testing.T) {
	for _, c := range []struct{ what, err, want string }{
		{`create volume "a"`, "volume a: exists already", `create volume "a": exists already`},
		{`create volume "a"`, `volume "a": exists already`, `create volume "a": exists already`},
		{`create snapshot "a@b"`, "snapshot a@b: not found", `create snapshot "a@b": not found`},
		{`create snapshot "a@b"`, "volume a: not found", `create snapshot "a@b": volume a: not found`},
		{`delete volume "a"`, `delete volume "a": in use`, `delete volume "a": in use`},
		{"stat", "broken", "stat: broken"},
	} {
		cause := fmt.Errorf("%s%w", strings.TrimSuffix(c.err, "not found"), objstore.ErrNotFound)
		if !strings.HasSuffix(c.err, "not found") {
			cause = errors.New(c.err)
		}
		err := doing(c.what, cause)
		if err.Error() != c.want || !errors.Is(err, cause) {
			t.Errorf("%q while doing %q is %q, want %q", c.err, c.what, err, c.want)
		}
	}
	if doing("stat", nil) != nil {
		t.Error("no error became one")
	}
}

func TestDeviceID(t *testing.T) {
	for _, in := range []string{"3", "ublkb3", "/dev/ublkb3"} {
		if id, err := deviceID(in); id != 3 || err != nil {
			t.Errorf("%q is %d, %v", in, id, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "/dev/sda", "ublkc0", "1.5"} {
		if id, err := deviceID(in); err == nil {
			t.Errorf("%q is %d", in, id)
		}
	}
}

// Every command has a help text with an example, and every flag says what it is for.
func TestHelpIsWhole(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%q: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		if c.Args == nil {
			t.Errorf("%q takes any arguments", c.CommandPath())
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len(line) > 120 {
				t.Errorf("%q: a line of its help has %d characters: %s", c.CommandPath(), len(line), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(New())
}

func TestExitStatus(t *testing.T) {
	t.Setenv("VARVE_STORE", t.TempDir())
	for _, c := range []struct {
		args   string
		status int
		stderr string
	}{
		{"version", exitOK, ""},
		{"", exitOK, ""},
		{"help volume", exitOK, ""},
		{"stat", exitError, "not a varve store"},
		{"stop", exitError, "not a varve store"},
		{"nonsense", exitUsage, "unknown command"},
		{"stat --nonsense", exitUsage, "unknown flag"},
		{"attach", exitUsage, "NAME is missing"},
		{"volume create a --size 1X", exitUsage, "no size"},
		{"volume create a --size 1000", exitUsage, "multiple"},
	} {
		var out, errs bytes.Buffer
		status := Run(context.Background(), strings.Fields(c.args), &out, &errs)
		if status != c.status || !strings.Contains(errs.String(), c.stderr) || (status == exitOK) != (errs.Len() == 0) {
			t.Errorf("varve %s: status %d, %q; want %d and %q", c.args, status, errs.String(), c.status, c.stderr)
		}
	}
}

func TestWriteTable(t *testing.T) {
	var b bytes.Buffer
	writeTable(&b, []column{{name: "name"}, {"size", true}, {name: "device"}}, [][]string{{"a", "10GiB", "-"}, {"longer", "1B", "/dev/x"}})
	want := "NAME     SIZE  DEVICE\na       10GiB  -\nlonger     1B  /dev/x\n"
	if b.String() != want {
		t.Errorf("table:\n%s\nwant:\n%s", b.String(), want)
	}
	b.Reset()
	writeTable(&b, []column{{name: "name"}}, nil)
	if b.String() != "NAME\n" {
		t.Errorf("an empty table is %q", b.String())
	}
}
