package blockdev

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A process is on its way out once it exits or was killed; what it is called does not matter.
func TestDyingProcess(t *testing.T) {
	for stat, want := range map[string]bool{
		"12 (varve) S 1 12 12 0 -1 4194304 1 0":    false,
		"12 (varve) D 1 12 12 0 -1 4194308 1 0":    true, // PF_EXITING
		"12 (a) b 4 4 4) S 1 12 12 0 -1 4194304 1": false,
		"12 (varve) S 1 12":                        false,
		"":                                         false,
	} {
		if got := exiting([]byte(stat)); got != want {
			t.Errorf("%q exits: %v", stat, got)
		}
	}
	for status, want := range map[string]bool{
		"Name:\tvarve\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000100\n": false,
		"SigPnd:\t0000000000000100\n": true,
		"ShdPnd:\t0000000000004100\n": true,
		"ShdPnd:\tnonsense\n":         false,
	} {
		if got := killed(status); got != want {
			t.Errorf("%q is killed: %v", status, got)
		}
	}
	if dying(os.Getpid()) || !alive(os.Getpid()) {
		t.Error("this process dies")
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if wait, err := stillServed(pid, 0); !wait || !errors.Is(err, ErrServed) {
		t.Errorf("a living server: wait %v, %v", wait, err)
	}
	if wait, err := stillServed(pid, time.Hour); wait || !errors.Is(err, ErrServed) {
		t.Errorf("one that still lives: wait %v, %v", wait, err)
	}
	if wait, err := stillServed(os.Getpid(), time.Hour); wait || errors.Is(err, ErrServed) || !errors.Is(err, ErrBusy) {
		t.Errorf("this process: wait %v, %v", wait, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it says that it was killed
	if dying(pid) || alive(pid) {
		t.Error("a process that is gone still dies")
	}
}
