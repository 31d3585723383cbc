// Command tally adds up the steps of make test and decides whether they are a success.
//
//	tally NAME=FILE... NAME:STATUS=FILE...
//
// NAME=FILE is a stream of test events as `go test -json` and `go tool test2json` write them. NAME:STATUS=FILE is a
// step that is no Go test, such as the linter: passed if STATUS is 0, and its log.
//
// A test may skip only where a stream of another step ran the same test and it passed: what this machine's kernel
// lacks is skipped on it and runs in the test kernel. Any other skip is a failure.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: tally NAME=FILE... NAME:STATUS=FILE...")
		os.Exit(2)
	}
	var t tally
	for _, arg := range os.Args[1:] {
		name, file, ok := strings.Cut(arg, "=")
		if !ok {
			fmt.Fprintf(os.Stderr, "tally: %q is not NAME=FILE\n", arg)
			os.Exit(2)
		}
		if name, status, isStep := strings.Cut(name, ":"); isStep {
			t.addStep(name, status == "0", file)
			continue
		}
		if err := t.addEvents(name, file); err != nil {
			fmt.Fprintln(os.Stderr, "tally:", err)
			os.Exit(2)
		}
	}
	if !t.report(os.Stdout) {
		os.Exit(1)
	}
}
