//go:build integration

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// checkScript stands for xfstests' ./check: it finds the devices that it was promised, and says
// what ./check would. Its third test hangs beside a device in use, as those do that nobody can
// kill.
const checkScript = `#!/bin/bash
set -e
. "$HOST_OPTIONS"
[ "$(type -P udevadm)" = /tmp/xfstests/bin/udevadm ] && udevadm settle
mkdir -p "$RESULT_BASE/generic"
for t; do
	printf '%s        ' "$t"
	case $t in
	generic/001)
		mount "$TEST_DEV" "$TEST_DIR"
		echo "$(stat -f -c %T "$TEST_DIR")" >"$TEST_DIR/file"
		umount "$TEST_DIR"
		"mkfs.$FSTYP" -q "$SCRATCH_DEV"
		sizes=$(blockdev --getsize64 "$TEST_DEV" "$SCRATCH_DEV" "$LOGWRITES_DEV" | sort -u)
		[ "$sizes" = 268435456 ]
		touch tests/generic/001.out # the installed copy is not written to
		echo " 1s" ;;
	generic/002) echo "[not run] on $TEST_DEV" ;;
	generic/003)
		echo "what was wrong" >"$RESULT_BASE/$t.out.bad"
		echo "- output mismatch (see $RESULT_BASE/$t.out.bad)" ;;
	generic/004)
		mount "$SCRATCH_DEV" "$SCRATCH_MNT"
		exec sleep 1000 >"$SCRATCH_MNT/file" ;;
	esac
done
echo "Ran: $*"
`

// TestMachine runs the script guest on real devices, in this machine instead of one of its own.
func TestMachine(t *testing.T) {
	if os.Getenv("VARVE_VM") == "" {
		t.Fatal("not in the test kernel: use integration/run ./integration/xfstests")
	}
	t.Chdir("../..")
	vm := filepath.Join(t.TempDir(), "vm")
	// integration/vm/run without a kernel: its options go, its command stays, and its disk is this
	// machine's. SIGTERM ends all of it, as a machine's end would.
	script := `#!/bin/bash
trap 'kill -KILL 0' TERM
while [ "$1" != -- ]; do shift; done
shift
eval "$*" &
wait $!
`
	if err := os.WriteFile(vm, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	installed := install(t, checkScript)
	for _, target := range []string{"loop", "varve"} {
		t.Run(target, func(t *testing.T) {
			out := t.TempDir()
			t.Cleanup(func() { takeAway(t, target) })
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			ok, err := run(ctx, []string{
				"run", "-xfstests", installed, "-targets", target, "-tests", "generic/*", "-group", "", "-size", "256M",
				"-limit", "5s", "-out", out, "-vm", vm, "-disk", "1", "-batch", "4",
			})
			log, _ := os.ReadFile(filepath.Join(out, "ext4-256M", target, "log"))
			if err != nil || ok {
				t.Fatalf("success is %v, error %v, want a failed run\n%s", ok, err, log)
			}
			b, err := openBook(filepath.Join(out, "ext4-256M", target, "results"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = b.close() }()
			tests := []string{"generic/001", "generic/002", "generic/003", "generic/004"}
			if want := []outcome{passed, notRun, failed, timeout}; !slices.Equal(outcomesIn(b, tests), want) {
				t.Fatalf("outcomes %v, want %v\n%s", outcomesIn(b, tests), want, log)
			}
			device := map[string]string{"loop": "/dev/loop", "varve": "/dev/ublkb"}[target]
			if r := b.get("generic/002"); !strings.HasPrefix(r.reason, "on "+device) {
				t.Errorf("%q, want a device %s", r.reason, device)
			}
			kept, err := os.ReadFile(filepath.Join(out, "ext4-256M", target, "generic/003/out.bad"))
			if err != nil || string(kept) != "what was wrong\n" {
				t.Errorf("what a failed test left: %q, %v", kept, err)
			}
			if !strings.Contains(string(log), "sleep 1000") {
				t.Errorf("the log does not show the process that hung\n%s", log)
			}
			if _, err := os.Stat(filepath.Join(installed, "tests/generic/001.out")); !os.IsNotExist(err) {
				t.Errorf("the installed copy was written to: %v", err)
			}
		})
	}
}

// takeAway undoes what a machine that hung has left.
func takeAway(t *testing.T, target string) {
	t.Helper()
	const script = `
		until ! mountpoint -q /tmp/xfstests/scratch; do umount /tmp/xfstests/scratch || sleep 0.1; done
		case $1 in
		loop) losetup --detach-all ;;
		varve) "$VARVE_BIN" --store /tmp/xfstests/dev/store stop --detach ;;
		esac
		umount /tmp/xfstests/dev && umount /tmp/xfstests/copy && rm -r /tmp/xfstests`
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "bash", "-c", script, "bash", target).CombinedOutput(); err != nil {
		t.Errorf("take away what the test left: %v\n%s", err, out)
	}
}
