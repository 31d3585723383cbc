package main

import (
	"fmt"
	"io"
	"strings"
)

// known has why a test that passes with kublk does not with varve, by server and test.
var known = map[string]map[string]string{
	"volume": {
		"ublk/002": "wants a device without recovery to be dead when its server is; a volume's device always has recovery",
	},
}

// writeCounts writes how many tests had which outcome, by group.
func writeCounts(w io.Writer, servers []string, runs []outcomes) {
	fmt.Fprintf(w, "| group | server | %s |\n|---|---|%s\n", strings.Join(states, " | "), strings.Repeat("--:|", len(states)))
	var groups []string
	for _, t := range tests(runs) {
		g, _, _ := strings.Cut(t, "/")
		if len(groups) == 0 || groups[len(groups)-1] != g {
			groups = append(groups, g)
		}
	}
	for _, g := range groups {
		for i, s := range servers {
			count := map[string]int{}
			for t, o := range runs[i] {
				if strings.HasPrefix(t, g+"/") {
					count[o.state]++
				}
			}
			fmt.Fprintf(w, "| %s | %s |", g, s)
			for _, state := range states {
				fmt.Fprintf(w, " %d |", count[state])
			}
			fmt.Fprintln(w)
		}
	}
}

// writeNotPassed lists the tests that did not pass everywhere.
func writeNotPassed(w io.Writer, servers []string, runs []outcomes) {
	fmt.Fprintf(w, "\n| test | %s | reason |\n|---|%s---|\n", strings.Join(servers, " | "), strings.Repeat("---|", len(servers)))
	for _, t := range tests(runs) {
		cells, reason, all := make([]string, len(runs)), "", true
		for i, r := range runs {
			o, ran := r[t]
			if !ran {
				o.state = "no outcome"
			}
			cells[i] = o.state
			all = all && o.state == passed
			if reason == "" {
				reason = o.reason
			}
		}
		if !all {
			fmt.Fprintf(w, "| %s | %s | %s |\n", t, strings.Join(cells, " | "), strings.ReplaceAll(reason, "|", "\\|"))
		}
	}
}

// writeDifferences lists the tests with different outcomes, and returns whether all that passed
// with base and not with server are known.
func writeDifferences(w io.Writer, baseName, name string, base, run outcomes) bool {
	ok := true
	for _, t := range tests([]outcomes{base, run}) {
		was, is := base[t], run[t]
		if was.state == is.state {
			continue
		}
		why := known[name][t]
		if was.state == passed && why == "" {
			ok = false
			why = "UNKNOWN: " + is.reason
		}
		fmt.Fprintf(w, "\n%s: %s with %s, %s with %s: %s", t, orNone(was.state), baseName, orNone(is.state), name, orNone(why))
	}
	fmt.Fprintf(w, "\n%s and %s: ", baseName, name)
	if ok {
		fmt.Fprintln(w, "no difference without a known reason")
	} else {
		fmt.Fprintln(w, "differences without a known reason")
	}
	return ok
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
