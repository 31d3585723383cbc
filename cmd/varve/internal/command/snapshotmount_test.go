package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"varve/cmd/varve/internal/protocol"
)

func TestSnapshotMountNode(t *testing.T) {
	device := filepath.Join(t.TempDir(), "ublkb0")
	for _, name := range []string{"", "p1", "p12"} {
		if err := os.WriteFile(device+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		device, transport string
		partition         int
		want, err         string
	}{
		{device, "ublk", 0, device, ""},
		{device, "loop", 0, device, ""},
		{device, "ublk", 1, device + "p1", ""},
		{device, "ublk", 12, device + "p12", ""},
		{device, "ublk", 2, "", "no partition 2; its partitions are 1, 12"},
		{device + "p1", "ublk", 1, "", "has no partitions"},
		{device, "loop", 1, "", "need ublk"},
	} {
		m := snapshotMount{Attachment: protocol.Attachment{Device: c.device, Transport: c.transport}, Partition: c.partition}
		got, err := m.node()
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s partition %d: %q, %v; want %q, %q", c.transport, c.partition, got, err, c.want, c.err)
		}
	}
}

func TestOnDevice(t *testing.T) {
	for node, want := range map[string]bool{
		"/dev/ublkb1": true, "/dev/ublkb1p2": true, "/dev/ublkb10": false, "/dev/ublkb10p1": false, "/dev/ublkb": false, "": false,
	} {
		if got := onDevice(node, "/dev/ublkb1"); got != want {
			t.Errorf("onDevice(%q): %v", node, got)
		}
	}
}
