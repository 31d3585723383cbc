package qcow2_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"varve/blockdev/target"
	"varve/blockdev/target/qcow2"
	"varve/blockdev/target/targettest"
)

const size = "4M"

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
		create []string
		o      qcow2.Options
	}{
		"v3":         {[]string{}, qcow2.Options{}},
		"v2":         {[]string{"-o", "compat=0.10"}, qcow2.Options{}},
		"small":      {[]string{"-o", "cluster_size=512,refcount_bits=64"}, qcow2.Options{}},
		"subcluster": {[]string{"-o", "extended_l2=on"}, qcow2.Options{}},
		"buffered":   {[]string{"-o", "cluster_size=2M"}, qcow2.Options{Buffered: true}},
		"backing":    {[]string{"-b", "base.qcow2", "-F", "qcow2"}, qcow2.Options{BlockSize: 4096}},
		"read-only":  {[]string{}, qcow2.Options{ReadOnly: true}},
	} {
		t.Run(name, func(t *testing.T) {
			targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
				dir := t.TempDir()
				path := filepath.Join(dir, "image")
				qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(dir, "base.qcow2"), "3M")
				qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 1000k 1M", filepath.Join(dir, "base.qcow2"))
				qemu(t, append(append([]string{"qemu-img", "create", "-q", "-f", "qcow2"}, c.create...), path, size)...)
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

var _ = errors.Is
var _ = strings.Contains
