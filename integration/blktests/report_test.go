package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeResults makes a directory of results, by server.
func writeResults(t *testing.T, results map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for server, lines := range results {
		if err := os.MkdirAll(filepath.Join(dir, server), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, server, "results"), []byte(lines), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReport(t *testing.T) {
	const kublk = "ublk/001\tpassed\t\nublk/002\tpassed\t\nblock/001\tnot run\tno scsi_debug\nblock/003\tfailed\toutput\n"
	for _, c := range []struct {
		name, varve, volume string
		ok                  bool
		says                []string
	}{
		{
			"alike", kublk, kublk, true,
			[]string{"| ublk | varve | 2 | 0 | 0 | 0 |", "| block | kublk | 0 | 1 | 1 | 0 |", "| block/001 | not run | not run | not run | no scsi_debug |"},
		},
		{
			"better", strings.Replace(kublk, "block/003\tfailed\toutput", "block/003\tpassed\t", 1), kublk, true,
			[]string{"block/003: failed with kublk, passed with varve"},
		},
		{
			"known", kublk, strings.Replace(kublk, "ublk/002\tpassed\t", "ublk/002\tfailed\toutput", 1), true,
			[]string{"ublk/002: passed with kublk, failed with volume: wants a device without recovery"},
		},
		{
			"unknown", strings.Replace(kublk, "ublk/001\tpassed\t", "ublk/001\ttimed out\tover", 1), kublk, false,
			[]string{"ublk/001: passed with kublk, timed out with varve: UNKNOWN: over"},
		},
		{
			"missing", strings.Replace(kublk, "ublk/001\tpassed\t\n", "", 1), kublk, false,
			[]string{"ublk/001: passed with kublk, - with varve", "| ublk/001 | passed | no outcome | passed |"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := writeResults(t, map[string]string{"kublk": kublk, "varve": c.varve, "volume": c.volume})
			var out strings.Builder
			ok, err := report(&out, dir, []string{"kublk", "varve", "volume"})
			if err != nil || ok != c.ok {
				t.Errorf("%v, %v, want %v", ok, err, c.ok)
			}
			for _, s := range c.says {
				if !strings.Contains(out.String(), s) {
					t.Errorf("does not say %q:\n%s", s, out.String())
				}
			}
		})
	}
}

func TestReportOfNothing(t *testing.T) {
	var out strings.Builder
	for name, results := range map[string]map[string]string{
		"no results": {}, "no state": {"varve": "ublk/001\n"}, "an unknown state": {"varve": "ublk/001\tfine\t\n"}, "an empty file": {"varve": ""},
	} {
		if ok, err := report(&out, writeResults(t, results), []string{"varve"}); err == nil || ok {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if _, err := report(&out, t.TempDir(), nil); err == nil {
		t.Error("no servers, no error")
	}
}
