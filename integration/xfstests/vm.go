package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// vm starts machines of one target by integration/vm/run.
type vm struct {
	options
	target string
}

// runningVM is one of them.
type runningVM struct {
	cmd *exec.Cmd
	log *os.File

	image string // of its disk; goes with it
}

// start boots a machine with the script guest in it. Beside out, all it says goes to the target's
// log.
func (v *vm) start(tests []string, out io.Writer) (machine, error) {
	dir, err := filepath.Abs(v.dir(v.target))
	if err != nil {
		return nil, err
	}
	todo := filepath.Join(dir, "todo")
	if err := os.WriteFile(todo, []byte(strings.Join(tests, "\n")+"\n"), 0o644); err != nil {
		return nil, err
	}
	image := filepath.Join(dir, "disk")
	if err := makeImage(image, v.disk<<30); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	// Each test has its limit, and the machine one that it never meets.
	cmd := exec.Command(v.vm, "--mem", v.mem, "--timeout", "604800", "--disk", image, "--share", dir, "--share", v.installed,
		"--", "exec bash integration/xfstests/guest")
	cmd.Env = append(os.Environ(),
		"VARVE_VM_CONSOLE="+filepath.Join(dir, "console"),
		"VARVE_XFSTESTS="+v.installed, "VARVE_XFSTESTS_TARGET="+v.target, "VARVE_XFSTESTS_FSTYP="+v.fstyp,
		"VARVE_XFSTESTS_SIZE="+v.size, "VARVE_XFSTESTS_OUT="+dir,
		fmt.Sprintf("VARVE_XFSTESTS_LIMIT=%d", int(v.limit.Seconds())), fmt.Sprintf("VARVE_XFSTESTS_BATCH=%d", v.batch))
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, out), log
	cmd.WaitDelay = 10 * time.Second                      // whatever still has its output open
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to act on
	if err := cmd.Start(); err != nil {
		_ = log.Close()
		return nil, fmt.Errorf("start %s: %w", v.vm, err)
	}
	return &runningVM{cmd, log, image}, nil
}

func (r *runningVM) wait() error {
	err := r.cmd.Wait()
	_ = r.log.Close()
	_ = os.Remove(r.image)
	return err
}

// kill has vm/run kill the machine, which it does at SIGTERM.
func (r *runningVM) kill() { _ = r.cmd.Process.Signal(syscall.SIGTERM) }

// makeImage makes a new sparse file.
func makeImage(path string, size int64) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(path, size)
}
