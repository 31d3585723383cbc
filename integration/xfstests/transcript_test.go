package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The outcomes of testdata/check.txt, which is what ./check of xfstests v2026.01.05 wrote,
// shortened, with what guest adds; among it a test that ran before, one that printed between its
// name and its time, a slow one, and one that the summary alone calls failed.
var wantOutcomes = []result{
	{"generic/001", passed, 26, ""},
	{"generic/002", passed, 12, ""},
	{"generic/003", notRun, 0, "this test requires fallocate support: no 15s allowance"},
	{"generic/004", failed, 0, "- output mismatch; -Silence is golden; +mount: no such device"},
	{"generic/005", failed, 0, "[failed, exit status 1]"},
	{"generic/006", failed, 0, "_check_dmesg: something found in dmesg"},
	{"generic/007", failed, 0, "_check_generic_filesystem: filesystem on /dev/ublkb1 is inconsistent; _check_dmesg: something found in dmesg"},
	{"generic/008", passed, 3, ""},
	{"ext4/001", passed, 75, ""},
	{"generic/001", failed, 0, "./check counts it as failed"},
}

func namesOf(rs []result) []string {
	names := make([]string, len(rs))
	for i, r := range rs {
		names[i] = r.test
	}
	return names
}

func TestTranscript(t *testing.T) {
	input, err := os.ReadFile("testdata/check.txt")
	if err != nil {
		t.Fatal(err)
	}
	// However the output is cut up on its way, the outcomes are the same.
	for _, step := range []int{1, 2, 7, 4096} {
		var got []result
		var markers []string
		tr := newTranscript(append(namesOf(wantOutcomes), "generic/009"), func(r result) {
			r.seconds = max(r.seconds, 0)
			got = append(got, r)
		}, func(w []string) { markers = append(markers, strings.Join(w, " ")) })
		for p := range slices.Chunk(input, step) {
			if n, err := tr.Write(p); n != len(p) || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
		}
		if !slices.Equal(got, wantOutcomes) {
			t.Errorf("in pieces of %d bytes:\n%v\nwant\n%v", step, got, wantOutcomes)
		}
		if want := []string{"batch generic/001", "note it is late", "alive", "end", "batch generic/009"}; !slices.Equal(markers, want) {
			t.Errorf("markers %q, want %q", markers, want)
		}
		if test, _ := tr.abandon(); test != "generic/009" {
			t.Errorf("the test in hand is %q, want generic/009", test)
		}
		if test, _ := tr.abandon(); test != "" {
			t.Errorf("%q is in hand after it was abandoned", test)
		}
	}
}
