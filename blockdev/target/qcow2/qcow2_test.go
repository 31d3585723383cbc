package qcow2_test

import (
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
			targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
				dir := t.TempDir()
				path, base := filepath.Join(dir, "image"), filepath.Join(dir, "base")
				qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "3M")
				qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 1000k 1M", base)
				qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", c.create, path, "4M")
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
