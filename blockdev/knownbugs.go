package blockdev

import "regexp"

// KnownBug is a fault of the ublk driver of some kernels that no server can avoid.
type KnownBug struct {
	Kernels string `json:"kernels"` // that have it
	Bug     string `json:"bug"`     // what happens
	Advice  string `json:"advice"`
}

// knownBugs by the releases, as uname -r prints them, of kernels that users have reported.
var knownBugs = []struct {
	releases *regexp.Regexp
	KnownBug
}{
	// 529d4d632788 (NUMA-aware memory) without 011af85ccd87, which sets the tag set up before the queues.
	{regexp.MustCompile(`^6\.18\.[45]($|[^0-9])`), KnownBug{
		Kernels: "Linux 6.18.4 and 6.18.5",
		Bug:     "the first device (ADD_DEV) makes the driver follow a null pointer: varve attach hangs or the machine panics",
		Advice:  "use 6.18.6 or later",
	}},
	{regexp.MustCompile(`^6\.17\.0-10(1[5-9]|[2-9][0-9])-(aws|azure|gcp|oracle)$`), KnownBug{
		Kernels: "Ubuntu's 6.17.0-1015 to -1018 for clouds, perhaps later ones",
		Bug:     "the first device (ADD_DEV) makes the driver follow a null pointer: varve attach hangs or the machine panics",
		Advice:  "use another kernel; where one has to be used, attach with --transport loop",
	}},
	{regexp.MustCompile(`^7\.0\.0-28($|[^0-9])`), KnownBug{
		Kernels: "7.0.0-28 of a distribution",
		Bug:     "START_DEV may hang when devices are made and deleted in quick succession",
		Advice:  "use a later kernel",
	}},
}

// KnownBugs returns the bugs of the driver of a kernel, by its release, such as "6.18.4-arch1-1".
func KnownBugs(release string) []KnownBug {
	list := []KnownBug{}
	for i := range knownBugs {
		if knownBugs[i].releases.MatchString(release) {
			list = append(list, knownBugs[i].KnownBug)
		}
	}
	return list
}
