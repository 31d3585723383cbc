package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestVM(t *testing.T) {
	for _, c := range []struct {
		name, command, boot string
		status              int
		out, errs           string
		says                string // the error
	}{
		{name: "status", command: "echo to out; echo to err >&2; exit 3", status: 3, out: "to out\n", errs: "to err\n"},
		{name: "success", command: "cat", status: 0},
		{name: "panic", command: "true", boot: "echo 'Kernel panic - not syncing: test'", status: statusBroken, says: "Kernel panic - not syncing: test"},
		{name: "warning", command: "true", boot: "echo 'WARNING: at kernel/x.c'", status: 0, errs: "vm: kernel warning:\nWARNING: at kernel/x.c\n"},
		{name: "stuck", command: `touch "$VARVE_VM_DIR/stuck"; sleep 1000`, status: statusBroken, says: "it is stuck"},
		{name: "no status", command: "true", boot: "echo last words; exit 1", status: statusBroken, says: "last words"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("FAKE_BOOT", c.boot)
			m, out, errs := newFakeVM(t, c.command)
			status, err := m.run(nil)
			if status != c.status || out.String() != c.out || errs.String() != c.errs {
				t.Errorf("status %d, output %q, errors %q; want %d, %q, %q", status, out, errs, c.status, c.out, c.errs)
			}
			if said := errorText(err); !strings.Contains(said, c.says) || (c.says == "") != (said == "") {
				t.Errorf("error %q, want %q", said, c.says)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// The command sees the caller's directory and the variables that are meant for it, whatever is in
// them.
func TestVMEnvironment(t *testing.T) {
	t.Setenv("VARVE_QUOTED", "a 'b' $c\nd")
	t.Setenv("UNRELATED", "x")
	dir := t.TempDir()
	t.Chdir(dir)
	m, out, _ := newFakeVM(t, `unset UNRELATED; printf '%s|' "$PWD" "$VARVE_QUOTED" "$VARVE_VM" "$VARVE_VM_DIR"`)
	if _, err := m.run(nil); err != nil {
		t.Fatal(err)
	}
	if want := dir + "|a 'b' $c\nd|1|" + m.dir + "|"; out.String() != want {
		t.Errorf("the command saw %q, want %q", out, want)
	}
	if s := script([]string{"UNRELATED=x", "GOFLAGS=-v"}, "o", "d", "c", "w", "true"); strings.Contains(s, "UNRELATED") || !strings.Contains(s, "GOFLAGS='-v'") {
		t.Errorf("script is %q", s)
	}
}

// A program that was built in the checkout is found by its name, before one of that name elsewhere.
func TestVMFindsPrograms(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{"bin/varve": "#!/bin/sh\necho built\n", "varve": "#!/bin/sh\necho another\n"} {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Chdir(dir)
	m, out, _ := newFakeVM(t, "varve")
	if status, err := m.run(nil); err != nil || status != 0 || out.String() != "built\n" {
		t.Errorf("status %d, %v: %q", status, err, out.String())
	}
}

// What is to end a machine ends all its processes, whatever state they are in.
func TestVMKilled(t *testing.T) {
	for _, c := range []struct {
		name    string
		signal  os.Signal
		timeout time.Duration
		halt    string
		status  int
	}{
		{name: "timeout", timeout: 2 * time.Second, status: statusTimeout},
		{name: "power cut", signal: unix.SIGUSR1, timeout: time.Minute, status: statusPowerCut},
		{name: "interrupt", signal: unix.SIGINT, timeout: time.Minute, status: statusInterrupt},
		{name: "terminate", signal: unix.SIGTERM, timeout: time.Minute, status: statusTerm},
		// The machine does not halt: the status that its command ended with is kept.
		{name: "stuck while it halts", timeout: time.Minute, halt: "sleep 1000", status: 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("FAKE_HALT", c.halt)
			pids := filepath.Join(t.TempDir(), "pids")
			command := "sleep 1000 & echo $! >" + pids + ".new; mv " + pids + ".new " + pids + "; "
			if c.halt == "" {
				command += "trap '' TERM INT; sleep 1000"
			} else {
				command += "exit 7"
			}
			m, _, _ := newFakeVM(t, command)
			m.timeout, m.halt = c.timeout, 100*time.Millisecond
			signals := make(chan os.Signal, 1)
			if c.signal != nil {
				go func() {
					for ; ; time.Sleep(10 * time.Millisecond) {
						if _, err := os.Stat(pids); err == nil {
							signals <- c.signal
							return
						}
					}
				}()
			}
			status, _ := m.run(signals)
			if status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			b, err := os.ReadFile(pids)
			if os.IsNotExist(err) && status == statusTimeout {
				return // a slow machine: its time was over before the command began
			}
			pid, e := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil || e != nil {
				t.Fatal(err, e)
			}
			for deadline := time.Now().Add(time.Minute); unix.Kill(pid, 0) == nil && !zombie(pid); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("a process of the machine lives")
				}
			}
		})
	}
}

// zombie: it has ended, but its new parent has not waited for it yet.
func zombie(pid int) bool {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return strings.Contains(string(b), ") Z ")
}

func TestParseVM(t *testing.T) {
	o, err := parseVM([]string{"--mem", "2G", "--timeout", "30", "--disk", "a", "--disk", "b", "--share", "/tmp/x", "--", "echo", "a b", "--mem"})
	if err != nil {
		t.Fatal(err)
	}
	if o.mem != "2G" || o.timeout != 30*time.Second || len(o.disks) != 2 || len(o.shares) != 1 || o.command != "echo a b --mem" {
		t.Errorf("options are %+v", o)
	}
	for _, args := range [][]string{{"--timeout", "x", "--", "true"}, {"--nonsense"}, {"--mem", "1G"}, {"--"}} {
		if _, err := parseVM(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestTakeProcessor(t *testing.T) {
	dir := t.TempDir()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	taken := map[int]bool{}
	for range set.Count() {
		cpu, release, err := takeProcessor(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if taken[cpu] || !set.IsSet(cpu) {
			t.Errorf("processor %d is given out, after %v", cpu, taken)
		}
		taken[cpu] = true
	}
	cpu, release, err := takeProcessor(dir) // more machines than processors share
	if err != nil || !set.IsSet(cpu) {
		t.Errorf("processor %d, %v", cpu, err)
	}
	release()
}

func TestHidden(t *testing.T) {
	got := hidden([]string{"/tmp/b", "/srv/x", "/tmp/a", "/tmp/b", "/tmp/", "/dev/shm/c", "/tmpfile"})
	if want := "/dev/shm/c\n/tmp/a\n/tmp/b\n"; got != want {
		t.Errorf("hidden directories %q, want %q", got, want)
	}
}

func TestConsole(t *testing.T) {
	console := []byte("a\nb\nOops: one\nc\nWARNING: x\nWARNING: y\nd\n")
	if got := around(console, failureLine, 1, 1, 1, 100); got != "b\nOops: one\nc" {
		t.Errorf("the failure is %q", got)
	}
	if got := around(console, warningLine, 0, 1, -1, 2); got != "WARNING: x\nWARNING: y" {
		t.Errorf("the warnings are %q", got)
	}
	if kernelFailure([]byte("all is well\n")) != "" || kernelWarnings(console[:20]) != "" {
		t.Error("a failure is seen where there is none")
	}
}
