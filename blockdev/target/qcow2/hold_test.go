package qcow2_test

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"
)

func qemuFails(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// holdByQemu has a qemu-io hold an image open until release.
func holdByQemu(t *testing.T, path string) (release func()) {
	t.Helper()
	cmd := exec.Command("qemu-io", "-f", "qcow2", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("length\n")); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(out); s.Scan() && !strings.Contains(s.Text(), "MiB"); { // the answer
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
