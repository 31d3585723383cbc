package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fakeKernel stands for the test kernel: it runs the command on this machine, with the serial lines
// and the status as integration/vm/init has them. What BOOT names it does first, and HALT in place
// of halting.
const fakeKernel = `#!/bin/bash
for a; do
	case $a in VARVE_RUN=*) dir=${a#*=} ;; esac
done
echo "Linux version 0"
eval "$FAKE_BOOT"
bash "$dir/cmd" </dev/null >&3 2>&4
echo $? >"$dir/status"
eval "$FAKE_HALT"
`

// newFakeVM is a machine of the fake kernel that is ready to run command.
func newFakeVM(t *testing.T, command string) (m *vm, out, errs *bytes.Buffer) {
	t.Helper()
	kernel := filepath.Join(t.TempDir(), "linux")
	if err := os.WriteFile(kernel, []byte(fakeKernel), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VARVE_KERNEL", kernel)
	t.Setenv("VARVE_CACHE", t.TempDir())
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	m = &vm{vmOptions: vmOptions{mem: "1G", timeout: time.Minute, command: command}, halt: time.Minute, out: out, err: errs}
	if err := m.prepare(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.remove)
	return m, out, errs
}
