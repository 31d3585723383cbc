package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are those of the command line.
type options struct {
	cuts, fsCuts, rounds int
	seed                 uint64
	only                 *regexp.Regexp
	out                  string
}

// outcome is what became of one line of the list, or of the kills.
type outcome struct {
	name   string
	counts map[string]int
	failed []string
	log    string
	took   time.Duration
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "guest" {
		os.Exit(guestMain(os.Args[2:]))
	}
	var o options
	var only string
	var list bool
	flag.IntVar(&o.cuts, "cuts", 8000, "crashes in the random histories of the engine")
	flag.IntVar(&o.fsCuts, "fs-cuts", 2000, "cuts of a store on ext4 and xfs")
	flag.IntVar(&o.rounds, "rounds", 50, "kills of the test kernel")
	flag.Uint64Var(&o.seed, "seed", 0, "where the random choices begin (default: drawn, and printed)")
	flag.StringVar(&only, "only", "", "`regexp` of the names of what is run")
	flag.StringVar(&o.out, "o", "out/crash", "`directory` for logs, and what is kept of failures")
	flag.BoolVar(&list, "list", false, "say what would be run, and end")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(only); err != nil || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "crash: see the package's comment for how to call it:", err, flag.Args())
		os.Exit(2)
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32())
	}
	if list {
		for _, t := range tests {
			fmt.Printf("%-36s %s -run '%s' %s\n", t.name, t.pkg, t.run, strings.Join(t.env, " "))
		}
		fmt.Printf("%-36s %d rounds\n", killName, o.rounds)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, &o)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, o *options) int {
	abs, err := filepath.Abs(o.out)
	if err == nil {
		o.out = abs
		err = os.MkdirAll(o.out, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		return 2
	}
	fmt.Printf("crash: seed %d, logs in %s\n", o.seed, o.out)
	var all []outcome
	for _, t := range tests {
		if o.only.MatchString(t.name) && ctx.Err() == nil {
			all = append(all, runTest(ctx, o, t))
			say(&all[len(all)-1])
		}
	}
	if o.only.MatchString(killName) && o.rounds > 0 && ctx.Err() == nil {
		all = append(all, kills(ctx, o))
		say(&all[len(all)-1])
	}
	return summary(ctx, o, all)
}

// say is the line that a user sees while the rest runs.
func say(r *outcome) {
	state := "ok"
	if len(r.failed) > 0 {
		state = "FAILED"
	}
	fmt.Printf("%-36s %-6s %6.0f s  %s\n", r.name, state, r.took.Seconds(), countsOf(r.counts))
}

func countsOf(m map[string]int) string {
	words := make([]string, 0, len(m))
	for w, n := range m {
		words = append(words, fmt.Sprintf("%d %s", n, w))
	}
	sort.Slice(words, func(i, j int) bool { return strings.SplitN(words[i], " ", 2)[1] < strings.SplitN(words[j], " ", 2)[1] })
	return strings.Join(words, ", ")
}

// summary prints what was tried and what failed, and returns the exit status.
func summary(ctx context.Context, o *options, all []outcome) int {
	total, failed := map[string]int{}, 0
	for _, r := range all {
		for w, n := range r.counts {
			total[w] += n
		}
		for _, f := range r.failed {
			failed++
			fmt.Printf("FAILED %s: %s\n       log: %s\n", r.name, f, r.log)
		}
	}
	fmt.Printf("%s; %d failures; seed %d\n", countsOf(total), failed, o.seed)
	switch {
	case ctx.Err() != nil:
		fmt.Println("ended before it was done")
		return 1
	case failed > 0:
		return 1
	case len(all) == 0:
		fmt.Println("nothing was run: -only matches no name; see -list")
		return 2
	}
	return 0
}

var (
	countLine = regexp.MustCompile(`crash: (\d+) ([a-z][a-z -]*)`)
	failLine  = regexp.MustCompile(`^.?\s*--- FAIL: (\S+)`)
)

// runTest runs one line of the list and reads its log.
func runTest(ctx context.Context, o *options, t test) outcome {
	began := time.Now()
	r := outcome{name: t.name, counts: map[string]int{}, log: filepath.Join(o.out, slug(t.name)+".log")}
	ctx, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	var cmd *exec.Cmd
	if t.machine {
		cmd = exec.CommandContext(ctx, "integration/run", "-o", filepath.Join(o.out, slug(t.name)), "-run", t.run, t.pkg)
	} else {
		cmd = exec.CommandContext(ctx, "go", "test", "-v", "-count=1", "-timeout", "0", "-run", t.run, t.pkg)
	}
	fill := strings.NewReplacer("{cuts}", strconv.Itoa(o.cuts), "{fscuts}", strconv.Itoa(o.fsCuts),
		"{rounds}", strconv.Itoa(o.rounds), "{seed}", strconv.FormatUint(o.seed, 10))
	cmd.Env = append(os.Environ(), "VARVE_CRASH_KEEP="+o.out, fmt.Sprintf("VARVE_TEST_PATIENCE=%d", patience(t.limit)))
	for _, e := range t.env {
		cmd.Env = append(cmd.Env, fill.Replace(e))
	}
	err := toLog(cmd, r.log)
	for _, name := range append([]string{r.log}, logsBelow(filepath.Join(o.out, slug(t.name)))...) {
		r.read(name)
	}
	if err != nil && len(r.failed) == 0 {
		r.failed = append(r.failed, err.Error())
	}
	if err == nil && len(r.counts) == 0 {
		r.failed = append(r.failed, "it reports no counts: no test was run")
	}
	r.took = time.Since(began)
	return r
}

// patience is what the time limits of integration/run, which are those of make test, have to be
// multiplied by.
func patience(limit time.Duration) int {
	n, _ := strconv.Atoi(os.Getenv("VARVE_TEST_PATIENCE")) // none: 0
	return max(n, int(limit/(20*time.Minute)), 1)
}

// toLog runs a command with its output in a file. Its end is the end of all that it has started.
func toLog(cmd *exec.Cmd, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd.Run()
}

func logsBelow(dir string) []string {
	names, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	return names
}

// read takes counts and failures out of a log.
func (r *outcome) read(name string) {
	f, err := os.Open(name)
	if err != nil {
		r.failed = append(r.failed, err.Error())
		return
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		if m := countLine.FindStringSubmatch(in.Text()); m != nil {
			n, _ := strconv.Atoi(m[1])
			r.counts[strings.TrimSpace(m[2])] += n
		}
		if m := failLine.FindStringSubmatch(in.Text()); m != nil && strings.Contains(in.Text(), "FAIL") {
			r.failed = append(r.failed, m[1])
		}
	}
}

func slug(name string) string {
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(name), "-"), "-")
}
