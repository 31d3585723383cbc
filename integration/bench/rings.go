package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// A line of go test -bench whose name ends in ring=NAME, and its time.
var ringLine = regexp.MustCompile(`^Benchmark(\S+)/ring=([a-z]+)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op.*?(\d+) allocs/op`)

// runRings turns the output of uring's benchmarks into a table: the implementations of a ring side
// by side.
func runRings(args []string) error {
	flags := flag.NewFlagSet("rings", flag.ExitOnError)
	in := flags.String("in", "rings.txt", "output of go test -bench")
	if err := flags.Parse(args); err != nil {
		return err
	}
	f, err := os.Open(*in)
	if err != nil {
		return err
	}
	defer f.Close()
	const ours, theirs = "varve", "giouring"
	var names []string
	times, allocs := map[string][]float64{}, map[string]string{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		m := ringLine.FindStringSubmatch(sc.Text())
		if m == nil {
			continue
		}
		name, key := m[1], m[1]+" "+m[2]
		if times[name+" "+ours] == nil && times[name+" "+theirs] == nil {
			names = append(names, name)
		}
		ns, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return fmt.Errorf("read %s: %w", *in, err)
		}
		times[key], allocs[key] = append(times[key], ns), m[4]
	}
	if len(names) == 0 {
		return errors.New("no benchmark of a ring was run")
	}
	fmt.Printf("| ns for each | %s | %s | ratio | allocations |\n|---|---:|---:|---:|---:|\n", ours, theirs)
	for _, name := range names {
		a, b := name+" "+ours, name+" "+theirs
		if len(times[a]) == 0 || len(times[b]) == 0 {
			return fmt.Errorf("%s was not run on both rings", name)
		}
		x, y := middle(times[a]), middle(times[b])
		fmt.Printf("| %s | %.0f | %.0f | %.2f | %s, %s |\n", strings.ReplaceAll(name, "/", " "), x, y, x/y, allocs[a], allocs[b])
	}
	return nil
}
