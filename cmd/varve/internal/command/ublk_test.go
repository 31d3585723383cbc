package command

import (
	"bytes"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
)

// Scripts find a device's state and process by their places in a line: the fields after "state" and
// "pid".
func TestUblkText(t *testing.T) {
	d := ublkDevice{
		DeviceInfo: blockdev.DeviceInfo{
			ID: 3, State: blockdev.StateFailIO, Queues: 2, Depth: 128, MaxIO: 1 << 20, Size: 1 << 30, BlockSize: 4096, ServerPID: 77,
		},
		Flags:  "0x42",
		Target: &targets.Record{TargetDevice: protocol.TargetDevice{Target: protocol.Target{Type: "loop", Files: []string{"/disk"}}}},
	}
	var b bytes.Buffer
	writeUblkText(&b, &d, [][]int{{0, 2}, {1}})
	const want = `dev id 3: nr_hw_queues 2 queue_depth 128 block size 4096 dev_capacity 2097152
	max rq size 1048576 daemon pid 77 flags 0x42 state FAIL_IO
	queue 0: affinity(0 2 )
	queue 1: affinity(1 )
	target loop /disk
`
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	fields := strings.Fields(strings.Split(b.String(), "\n")[1])
	if fields[6] != "77" || fields[10] != "FAIL_IO" {
		t.Errorf("the process and the state are not fields 7 and 11 of %q", fields)
	}
}

// parseTarget is the device of a command line of ublk add.
func parseTarget(args []string) (protocol.TargetDevice, error) {
	var o targetFlags
	cmd := &cobra.Command{Use: "add", SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, args []string) error { return o.take(cmd, args) }}
	o.addNew(cmd)
	numberFlag(cmd, &o.device.ID, theNumber)
	cmd.Flags().String("store", "", "")
	cmd.SetArgs(args)
	err := cmd.Execute()
	return o.device, err
}

// The flags are those of other ublk programs, and say the same as the long ones.
func TestTargetFlags(t *testing.T) {
	for line, want := range map[string]protocol.TargetDevice{
		"-t null": {ID: -1, CopyMode: "auto", Target: protocol.Target{Type: "null", Size: 1 << 30}},
		"-t null -n 4 -q 2 -d 64 -z -s 2G -r 0": {
			ID: 4, CopyMode: "zero", Queues: 2, Depth: 64, Recovery: "none", Target: protocol.Target{Type: "null", Size: 2 << 30},
		},
		"-t null -u -r":               {ID: -1, CopyMode: "user", Recovery: "reissue", Target: protocol.Target{Type: "null", Size: 1 << 30}},
		"-t loop -r 1 /disk":          {ID: -1, CopyMode: "auto", Recovery: "reissue", Target: protocol.Target{Type: "loop", Files: []string{"/disk"}}},
		"-t loop -f /disk -r=fail-io": {ID: -1, CopyMode: "auto", Recovery: "fail-io", Target: protocol.Target{Type: "loop", Files: []string{"/disk"}}},
		"-t loop --zoned --format --zone-size 4M --conventional 2 --max-open-zones 3 --max-active-zones 4 /a": {ID: -1, CopyMode: "auto", Target: protocol.Target{
			Type: "loop", Files: []string{"/a"}, Format: true,
			Zones: protocol.Zones{Zoned: true, ZoneSize: 4 << 20, Conventional: 2, MaxOpenZones: 3, MaxActiveZones: 4},
		}},
		"-t null --zoned": {ID: -1, CopyMode: "auto", Recovery: "none", Target: protocol.Target{Type: "null", Size: 1 << 30, Zones: protocol.Zones{Zoned: true, ZoneSize: 256 << 20}}},
		"-t stripe -f /c /a /b,1 --format --chunk-size 8K --block-size 4096 --buffered --read-only": {ID: -1, CopyMode: "auto", Target: protocol.Target{
			Type: "stripe", Files: []string{"/c", "/a", "/b,1"}, Format: true, ChunkSize: 8192, BlockSize: 4096, Buffered: true, ReadOnly: true,
		}},
		"-t mirror -f /a -f /b --degraded --resync-from /b": {ID: -1, CopyMode: "auto", Target: protocol.Target{
			Type: "mirror", Files: []string{"/a", "/b"}, Degraded: true, ResyncFrom: "/b",
		}},
		"-t nbd nbd://h/x": {ID: -1, CopyMode: "auto", Target: protocol.Target{Type: "nbd", NBD: protocol.NBD{URI: "nbd://h/x"}}},
		"-t nbd -f nbds://h/x --connections 4 --timeout 2m --request-timeout 10s --tls-ca /ca --tls-cert /c --tls-key /k --tls-hostname n": {
			ID: -1, CopyMode: "auto", Target: protocol.Target{Type: "nbd", NBD: protocol.NBD{
				URI: "nbds://h/x", Connections: 4, Timeout: 120, RequestTimeout: 10, TLSCA: "/ca", TLSCert: "/c", TLSKey: "/k", TLSHostname: "n",
			}},
		},
	} {
		got, err := parseTarget(strings.Fields(line))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", line, got, err, want)
		}
	}
}

// A file is found from every directory, an address is left alone, and neither is taken for the other.
func TestTargetFiles(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	d, err := parseTarget(strings.Fields("-t loop -f a"))
	if err != nil || !slices.Equal(d.Files, []string{filepath.Join(dir, "a")}) {
		t.Errorf("%+v, %v", d, err)
	}
	d, err = parseTarget(strings.Fields("-t nbd nbds://h/x --tls-ca ca"))
	if err != nil || d.URI != "nbds://h/x" || d.TLSCA != filepath.Join(dir, "ca") || len(d.Files) != 0 {
		t.Errorf("%+v, %v", d, err)
	}
	for line, want := range map[string]string{
		"-t nbd":                                 "needs one address",
		"-t nbd nbd://h/x /disk":                 "files and --buffered are not for the target nbd",
		"-t nbd nbd://h/x --buffered":            "files and --buffered are not for the target nbd",
		"-t nbd nbd://h/x --size 1G":             "a size is for the target null",
		"-t nbd nbd://h/x --connections 65":      "65 connections; use 1 to 64",
		"-t nbd nbd://h/x --timeout 25h":         "timeout 90000 s; use 1 s to 24 h",
		"-t nbd nbd://h/x --timeout -1s":         "--timeout -1s; use whole seconds",
		"-t nbd nbd://h/x --timeout 10ms":        "--timeout 10ms; use whole seconds",
		"-t nbd nbd://h/x --request-timeout 25h": "request timeout 90000 s; use 1 s to 24 h",
		"-t loop /disk --tls-ca /ca":             "certificates are for the target nbd",
		"-t loop /disk --request-timeout 10s":    "timeouts and certificates are for the target nbd",
	} {
		if _, err := parseTarget(strings.Fields(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

// The process in the background gets a command line that says the same.
func TestTargetLine(t *testing.T) {
	for _, d := range []protocol.TargetDevice{
		{ID: -1, CopyMode: "auto", Target: protocol.Target{Type: "null", Size: 1000 << 9}},
		{ID: 7, CopyMode: "plain", Queues: 3, Depth: 9, Recovery: "fail-io", Target: protocol.Target{
			Type: "stripe", Files: []string{"/a b", "/-c", "/d,e"}, Format: true, ChunkSize: 4096, BlockSize: 512, Buffered: true, ReadOnly: true,
		}},
		{ID: 2, CopyMode: "auto", Target: protocol.Target{Type: "mirror", Files: []string{"/a", "/b"}, Format: true, RegionSize: 128 << 10}},
		{ID: 4, CopyMode: "auto", Target: protocol.Target{
			Type: "loop", Files: []string{"/a"}, Format: true,
			Zones: protocol.Zones{Zoned: true, ZoneSize: 4 << 20, Conventional: 2, MaxOpenZones: 3, MaxActiveZones: 4},
		}},
		{ID: 5, CopyMode: "auto", Target: protocol.Target{Type: "loop", Files: []string{"/a"}, Zones: protocol.Zones{Zoned: true}}},
		{ID: 3, CopyMode: "auto", Target: protocol.Target{Type: "mirror", Files: []string{"/a"}, Degraded: true, ResyncFrom: "/a"}},
		{ID: 4, CopyMode: "auto", Target: protocol.Target{Type: "nbd", NBD: protocol.NBD{
			URI: "nbd+unix:///a?socket=/b,c", Connections: 2, Timeout: 90, RequestTimeout: 600, TLSCA: "/ca", TLSCert: "/c", TLSKey: "/k", TLSHostname: "n",
		}}},
	} {
		args := line("add", "/store", &d)
		if got, err := parseTarget(args[2:]); err != nil || !reflect.DeepEqual(got, d) {
			t.Errorf("%q: %+v, %v, want %+v", args, got, err, d)
		}
	}
}
