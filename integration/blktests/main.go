// Command blktests compares what blktests, the regression suite of Linux's block layer, found on
// ublk devices of several servers. The script run beside it runs the tests, an installed copy's, in
// the test kernel; see docs/blktests.md.
//
//	blktests -dir out/blktests kublk varve volume
//
// DIR/SERVER/results has a line "TEST OUTCOME REASON", with tabs, for each test. The first server
// is the one to compare with. A test that passed with that one and not with another makes the run
// fail, unless known has the reason.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	dir := flag.String("dir", "out/blktests", "`directory` of the results")
	flag.Parse()
	ok, err := report(os.Stdout, *dir, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "blktests:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// report prints the comparison, and returns whether each difference is known.
func report(w io.Writer, dir string, servers []string) (bool, error) {
	if len(servers) == 0 {
		return false, errors.New("no servers; usage: blktests -dir DIR SERVER…")
	}
	runs := make([]outcomes, 0, len(servers))
	for _, s := range servers {
		o, err := readOutcomes(filepath.Join(dir, s, "results"))
		if err != nil {
			return false, err
		}
		runs = append(runs, o)
	}
	writeCounts(w, servers, runs)
	writeNotPassed(w, servers, runs)
	ok := true
	for i := range servers[1:] {
		if !writeDifferences(w, servers[0], servers[i+1], runs[0], runs[i+1]) {
			ok = false
		}
	}
	return ok, nil
}
