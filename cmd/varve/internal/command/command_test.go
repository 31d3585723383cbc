package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"varve/blockdev"
	"varve/objstore"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"4096": 4096, "10G": 10 << 30, "10g": 10 << 30, "512MiB": 512 << 20, "512mb": 512 << 20, "1.5T": 3 << 39, "1 K": 1024,
		"0": 0, "7B": 7, "1P": 1 << 50, "7E": 7 << 60, "1.5eib": 3 << 59,
	} {
		if got, err := parseSize(in); got != want || err != nil {
			t.Errorf("%q is %d (%v), want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "G", "-1G", "+1", "10X", "10GG", "1e3", "0x10", "10Z", "1.G", ".5G", "NaN", "Inf", " 1", "1\n", "1,5G"} {
		if got, err := parseSize(in); err == nil || !strings.Contains(err.Error(), "write one like") {
			t.Errorf("%q is %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"9000P", "8E", "10E", "10EiB", "99999999999999999999", "99999999999999999999G"} {
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
		{"--version", exitOK, ""},
		{"", exitOK, ""},
		{"help volume", exitOK, ""},
		{"help volume create", exitOK, ""},
		{"help exit-status", exitOK, ""},
		{"volume create --help", exitOK, ""},
		{"stat", exitError, "not a varve store"},
		{"stop", exitError, "not a varve store"},
		{"nonsense", exitUsage, `unknown command "nonsense" for "varve"`},
		{"stat --nonsense", exitUsage, "unknown flag: --nonsense"},
		{"stat -q", exitUsage, "unknown flag: -q"},
		{"attach", exitUsage, "NAME is missing"},
		{"volume create a --size 1X", exitUsage, "not a size"},
		{"volume create a --size 1000", exitUsage, "multiple"},
	} {
		var out, errs bytes.Buffer
		status := Run(context.Background(), strings.Fields(c.args), &out, &errs)
		if status != c.status || !strings.Contains(errs.String(), c.stderr) || (status == exitOK) != (errs.Len() == 0) {
			t.Errorf("varve %s: status %d, %q; want %d and %q", c.args, status, errs.String(), c.status, c.stderr)
		}
	}
}

// A command that does not exist is what is wrong, whatever stands beside it.
func TestUnknownCommand(t *testing.T) {
	for line, words := range map[string]string{
		"nope":                      `unknown command "nope" for "varve"`,
		"nope --frob":               `unknown command "nope" for "varve"`,
		"nope -x":                   `unknown command "nope" for "varve"`,
		"nope --help":               `unknown command "nope" for "varve"`,
		"nope --store":              `unknown command "nope" for "varve"`,
		"volume nope --size 10G":    `unknown command "nope" for "varve volume"`,
		"volume crate a --help":     `unknown command "crate" for "varve volume"; did you mean "create"?`,
		"help nope":                 `unknown command "nope" for "varve"`,
		"help volume nope":          `unknown command "nope" for "varve volume"`,
		"help volume list nope":     `unknown command "nope" for "varve volume list"`,
		"completion nope":           `unknown command "nope" for "varve completion"`,
		"completion bash nope":      `unexpected argument "nope"`,
		"exit-status nope":          `unexpected argument "nope"`,
		"help volume --nonsense":    `unknown flag: --nonsense`,
		"--nonsense volume":         `unknown flag: --nonsense`,
		"volume --nonsense":         `unknown flag: --nonsense`,
		"version --json=yes,please": `--json: "yes,please"; write true or false`,
	} {
		var out, errs bytes.Buffer
		status := Run(t.Context(), strings.Fields(line), &out, &errs)
		if status != exitUsage || !strings.Contains(errs.String(), words) || out.Len() > 0 {
			t.Errorf("varve %s: status %d, %q and %q; want %d and %q", line, status, out.String(), errs.String(), exitUsage, words)
		}
	}
}

// Values that flags don't take are refused in words, for every flag of every command: nothing of
// how they are parsed gets out.
func TestFlagValues(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			for _, value := range []string{"nonsense", "", "99999999999999999999", "10E"} {
				line := append(strings.Fields(c.CommandPath())[1:], "--"+f.Name+"="+value)
				var out, errs bytes.Buffer
				err := c.ParseFlags(line[len(line)-1:])
				if err == nil {
					continue // a text
				}
				status := Run(t.Context(), line, &out, &errs)
				said := errs.String()
				if status != exitUsage || !strings.HasPrefix(said, "varve: --"+f.Name+": ") {
					t.Errorf("varve %s: status %d, %q", line, status, said)
				}
				for _, word := range []string{"strconv", "parsing", "invalid", "time:", "argument", "int", "<nil>"} {
					if strings.Contains(said, word) {
						t.Errorf("varve %s: %q speaks of %q", line, said, word)
					}
				}
			}
		})
	}
	walk(New())
	for line, words := range map[string]string{
		"volume create a --size":                          "--size needs a value",
		"volume create a --size 10E":                      `--size: "10E" is too large; sizes must be below 8EiB`,
		"attach a --queues x":                             `--queues: "x" is not a whole number`,
		"attach a --queues 99999999999999999999":          `--queues: "99999999999999999999" is too large`,
		"serve --settle-delay 5":                          `--settle-delay: "5" is not a duration; write one like 500ms`,
		"stat ---":                                        "--- is not a flag",
		"volume create a --size 10G --verify=maybe":       `--verify: "maybe"; write true or false`,
		"volume create a --size 10G --block-size 1000000": `block size 1000000; use 512 or 4096`,
	} {
		var out, errs bytes.Buffer
		if status := Run(t.Context(), strings.Fields(line), &out, &errs); status != exitUsage || !strings.Contains(errs.String(), words) {
			t.Errorf("varve %s: status %d, %q; want %d and %q", line, status, errs.String(), exitUsage, words)
		}
	}
}

func TestVersionFlag(t *testing.T) {
	var flag, cmd, errs bytes.Buffer
	if Run(t.Context(), []string{"--version"}, &flag, &errs) != exitOK || Run(t.Context(), []string{"version"}, &cmd, &errs) != exitOK {
		t.Fatal(errs.String())
	}
	if flag.String() != cmd.String() || !strings.HasPrefix(flag.String(), "varve ") {
		t.Errorf("--version writes %q, version %q", flag.String(), cmd.String())
	}
}

func TestCounted(t *testing.T) {
	for n, want := range map[int]string{0: "0 segments", 1: "1 segment", 2: "2 segments"} {
		if got := counted(n, "segment"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
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

func TestDedupText(t *testing.T) {
	for want, s := range map[string]objstore.Stat{
		"-":    {Logical: 0, Stored: 0},
		"1.00": {Logical: 1 << 30, Stored: 1 << 30, DedupRatio: 1},
		"2.00": {Logical: 2 << 30, Stored: 1 << 30, DedupRatio: 2},
		"0.25; at least 3GiB of the stored data is only in snapshots, overwritten or deleted": {Logical: 1 << 30, Stored: 4 << 30, DedupRatio: 0.25},
	} {
		if got := dedupText(&s); got != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}

// Numbers of 64 bits are text, and a device names its volume.
func TestUblkReport(t *testing.T) {
	list := []blockdev.DeviceInfo{{ID: 3, Path: "/dev/ublkb3", Flags: 1<<63 | 1, Owner: 0xfedcba9876543210, Size: 1 << 40}, {ID: 4, Path: "/dev/ublkb4"}}
	var b bytes.Buffer
	if err := writeJSON(&b, ublkReport(list, map[string]string{"/dev/ublkb3": "data"})); err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || len(got) != 2 {
		t.Fatalf("%v: %s", err, b.String())
	}
	for key, want := range map[string]any{
		"flags": "0x8000000000000001", "owner": "fedcba9876543210", "volume": "data", "path": "/dev/ublkb3", "id": 3.0, "size": float64(1 << 40),
	} {
		if got[0][key] != want {
			t.Errorf("%s is %v, want %v", key, got[0][key], want)
		}
	}
	if got[1]["owner"] != "0000000000000000" || got[1]["volume"] != nil {
		t.Errorf("%v", got[1])
	}
	b.Reset()
	if err := writeJSON(&b, ublkReport(nil, nil)); err != nil || b.String() != "[]\n" {
		t.Errorf("no devices are %q", b.String())
	}
}
