package blockdev

import "testing"

func TestKnownBugs(t *testing.T) {
	for release, want := range map[string]int{
		"6.18.4": 1, "6.18.5": 1, "6.18.4-arch1-1": 1, "6.18.5-200.fc43.x86_64": 1,
		"6.18.3": 0, "6.18.6": 0, "6.18.40": 0, "6.18.54-1": 0, "16.18.4": 0, "7.6.18.4": 0,
		"6.17.0-1015-azure": 1, "6.17.0-1017-aws": 1, "6.17.0-1018-azure": 1,
		"6.17.0-1014-azure": 0, "6.17.0-15-generic": 0, "6.17.0-1015-generic": 0, "6.17.0": 0,
		"7.0.0-28-generic": 1, "7.0.0-28": 1, "7.0.0-29-generic": 0, "7.0.0-280-generic": 0, "7.0.0": 0, "7.3.4": 0, "unknown": 0, "": 0,
	} {
		list := KnownBugs(release)
		if len(list) != want {
			t.Errorf("%s: %d bugs, want %d: %+v", release, len(list), want, list)
		}
		for _, b := range list {
			if b.Kernels == "" || b.Bug == "" || b.Advice == "" {
				t.Errorf("%s: %+v", release, b)
			}
		}
	}
}
