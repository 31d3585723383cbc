package qcow2_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"varve/blockdev/target"
	"varve/blockdev/target/qcow2"
	"varve/blockdev/target/targettest"
)

// qemu runs one of qemu's programs, or skips where there is none.
func qemu(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skip("missing feature: " + args[0])
	}
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

func open(t *testing.T, path string, o qcow2.Options) *qcow2.Disk {
	t.Helper()
	d, err := qcow2.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Backing files that the caller does not allow are not read.
func TestAllow(t *testing.T) {
	dir := t.TempDir()
	base, path := filepath.Join(dir, "base"), filepath.Join(dir, "image")
	qemu(t, "qemu-img", "create", "-q", "-f", "raw", base, "1M")
	qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", path)
	not := errors.New("not this one")
	_, err := qcow2.Open(path, qcow2.Options{Allow: func(p string) error {
		if p != base {
			t.Errorf("asked about %s", p)
		}
		return not
	}})
	if !errors.Is(err, not) {
		t.Errorf("%v, want the caller's error", err)
	}
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		create string
		o      qcow2.Options
	}{
		"v2":         {"compat=0.10", qcow2.Options{Buffered: true}},
		"subcluster": {"extended_l2=on", qcow2.Options{}},
		"backing":    {"backing_file=base,backing_fmt=qcow2", qcow2.Options{BlockSize: 4096}},
		"read-only":  {"preallocation=full", qcow2.Options{ReadOnly: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made := t.TempDir()
			qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(made, "base"), "3M")
			qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 1000k 1M", filepath.Join(made, "base"))
			qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", c.create, filepath.Join(made, "image"), "4M")
			targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
				dir := t.TempDir()
				path := filepath.Join(dir, "image")
				if err := os.CopyFS(dir, os.DirFS(made)); err != nil {
					t.Fatal(err)
				}
				d := open(t, path, c.o)
				t.Cleanup(func() {
					if err := d.Close(); err != nil {
						t.Error(err)
					}
					qemu(t, "qemu-img", "check", "-f", "qcow2", path)
				})
				return d
			}})
		})
	}
}
