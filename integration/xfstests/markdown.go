package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// markdown returns the lists for docs/xfstests.md: the figures, the tests of each outcome, and
// those that did not run by reason.
func (c comparison) markdown(title string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n| |", title)
	for _, o := range outcomes {
		fmt.Fprintf(&b, " %s |", o)
	}
	fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("--:|", len(outcomes)))
	for i, t := range c.targets {
		fmt.Fprintf(&b, "| %s |", t)
		for _, o := range outcomes {
			fmt.Fprintf(&b, " %d |", c.count(i, o))
		}
		b.WriteByte('\n')
	}
	c.section(&b, "Different", func(r row) bool { return r.differs() && !r.has(missing) }, true)
	c.section(&b, "Alike, and not passed", func(r row) bool {
		return !r.differs() && !r.has(passed) && !r.has(notRun) && !r.has(missing)
	}, true)
	for _, o := range []outcome{passed, missing} {
		for i, t := range c.targets {
			if o == passed && i > 0 {
				continue // differences are listed above
			}
			var names []string
			for _, r := range c.rows {
				if r.results[i].outcome == o {
					names = append(names, r.test)
				}
			}
			if len(names) > 0 {
				fmt.Fprintf(&b, "\n### %s on %s: %d\n\n%s\n", o, t, len(names), byDirectory(names))
			}
		}
	}
	reasons := map[string][]string{}
	for _, r := range c.rows {
		if r.results[0].outcome == notRun {
			reasons[r.results[0].reason] = append(reasons[r.results[0].reason], r.test)
		}
	}
	if len(reasons) > 0 {
		fmt.Fprintf(&b, "\n### not run on %s: %d\n\n| reason | tests |\n|---|---|\n", c.targets[0], c.count(0, notRun))
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(&b, "| %s | %s |\n", escape(reason), byDirectory(reasons[reason]))
	}
	return b.String()
}

func (c comparison) section(b *strings.Builder, title string, want func(row) bool, reasons bool) {
	first := true
	for _, r := range c.rows {
		if !want(r) {
			continue
		}
		if first {
			fmt.Fprintf(b, "\n### %s\n\n| test | %s |\n|---|%s\n", title, strings.Join(c.targets, " | "),
				strings.Repeat("---|", len(c.targets)))
			first = false
		}
		fmt.Fprintf(b, "| %s |", r.test)
		for _, x := range r.results {
			fmt.Fprintf(b, " %s |", strings.TrimSpace(string(x.outcome)+" "+escape(x.reason)))
		}
		b.WriteByte('\n')
	}
}

func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// byDirectory writes names as "generic/001 002 003, ext4/001".
func byDirectory(names []string) string {
	var b strings.Builder
	last := ""
	for _, n := range names {
		dir, number, _ := strings.Cut(n, "/")
		switch {
		case dir == last:
			b.WriteString(" " + number)
		case last == "":
			b.WriteString(n)
		default:
			b.WriteString(", " + n)
		}
		last = dir
	}
	return b.String()
}
