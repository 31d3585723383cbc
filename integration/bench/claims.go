package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image/color"
	"math"
	"os"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// claims are the figures for what was claimed for zero copy when it was proposed. They are few
// enough to be kept in docs/claims.json, from which the table and the plot are made again.
type claims struct {
	Kernel    string  `json:"kernel"`
	Processor string  `json:"processor"`
	Fio       string  `json:"fio"`
	Commit    string  `json:"commit,omitempty"`
	Rounds    int     `json:"rounds"`
	Rows      []claim `json:"rows"`
}

// claim compares zero copy with plain copy, in which the driver copies every page of a request to
// or from a buffer of the server, in one step: medians over the rounds.
type claim struct {
	Target string `json:"target"` // null or loop
	RW     string `json:"rw"`     // read or write
	Block  int    `json:"block"`
	Zero   speeds `json:"zero"`
	Plain  speeds `json:"plain"`
	User   speeds `json:"user"` // copied by the server's own pread and pwrite; loop only
}

// speeds are those of one copy mode.
type speeds struct {
	IOPS    float64 `json:"iops"`
	HostCPU float64 `json:"host_us_per_io"` // see sample
}

// claims returns what was measured of them.
func (r *results) claims() claims {
	c := claims{Kernel: r.Kernel, Processor: r.Processor, Fio: r.Fio, Commit: r.Commit, Rounds: r.Rounds}
	for _, s := range r.Steps {
		prefix := map[string]string{partNull: "null ", partLoop: "copy "}[s.Part]
		if prefix == "" {
			continue
		}
		row := claim{Target: s.Part, RW: s.RW, Block: s.Block}
		for mode, to := range map[string]*speeds{"zero": &row.Zero, "plain": &row.Plain, "user": &row.User} {
			to.IOPS, _ = r.median(s.Name, prefix+mode, iops)
			to.HostCPU, _ = r.median(s.Name, prefix+mode, hostCPU)
		}
		if row.Zero.IOPS > 0 && row.Plain.IOPS > 0 {
			c.Rows = append(c.Rows, row)
		}
	}
	return c
}

// gain returns how many times as many I/Os zero copy does: in a second, and in a second of processor
// time, 0 if that was not measured.
func (c claim) gain() (byTime, byCPU float64) {
	if c.Zero.HostCPU > 0 {
		byCPU = c.Plain.HostCPU / c.Zero.HostCPU
	}
	return c.Zero.IOPS / c.Plain.IOPS, byCPU
}

// markdown writes a table for each target.
func (c claims) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "## Zero copy against copy\n\nThousands of IOPS at depth 8, and how many times as many zero copy does as plain copy; in parentheses in a second\nof processor time.\n\n")
	c.table(b, partNull, false)
	c.table(b, partLoop, true)
}

func (c claims) table(b *strings.Builder, target string, user bool) {
	head, columns := "", 0
	for _, rw := range []string{"read", "write"} {
		head += fmt.Sprintf(" %s: zero copy | plain copy |", rw)
		columns += 3
		if user {
			head += " user copy |"
			columns++
		}
		head += " gain |"
	}
	fmt.Fprintf(b, "| %s |%s\n|---|%s\n", target, head, strings.Repeat("---:|", columns))
	for _, size := range c.sizes(target) {
		fmt.Fprintf(b, "| %s |", blockName(size))
		for _, rw := range []string{"read", "write"} {
			row, ok := c.row(target, rw, size)
			if !ok {
				fmt.Fprint(b, strings.Repeat(" – |", columns/2))
				continue
			}
			byTime, byCPU := row.gain()
			fmt.Fprintf(b, " %.1f | %.1f |", row.Zero.IOPS/1e3, row.Plain.IOPS/1e3)
			if user {
				fmt.Fprintf(b, " %.1f |", row.User.IOPS/1e3)
			}
			fmt.Fprintf(b, " %.2f (%.2f) |", byTime, byCPU)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// sizes returns the request sizes of a target, in the order of the steps.
func (c claims) sizes(target string) []int {
	var sizes []int
	seen := map[int]bool{}
	for _, row := range c.Rows {
		if row.Target == target && !seen[row.Block] {
			seen[row.Block] = true
			sizes = append(sizes, row.Block)
		}
	}
	return sizes
}

func (c claims) row(target, rw string, size int) (claim, bool) {
	for _, row := range c.Rows {
		if row.Target == target && row.RW == rw && row.Block == size {
			return row, true
		}
	}
	return claim{}, false
}

func (c claims) save(path string) error {
	b, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// runClaims is the command claims: it draws kept figures again, and prints their table.
func runClaims(args []string) error {
	flags := flag.NewFlagSet("claims", flag.ExitOnError)
	in := flags.String("in", "docs/claims.json", "figures, which report has written")
	png := flags.String("png", "docs/claims.png", "plot to write; empty: none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b, err := os.ReadFile(*in)
	if err != nil {
		return err
	}
	var c claims
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("read %s: %w", *in, err)
	}
	if len(c.Rows) == 0 {
		return fmt.Errorf("read %s: %w", *in, errors.New("no figures"))
	}
	var text strings.Builder
	c.markdown(&text)
	fmt.Print(text.String())
	if *png == "" {
		return nil
	}
	return c.plot(*png)
}

// plot draws three charts: throughput of null, how many times as much zero copy does there, and
// loop.
func (c claims) plot(path string) error {
	throughput, err := c.throughputs()
	if err != nil {
		return fmt.Errorf("draw the throughput: %w", err)
	}
	gains, err := c.gains()
	if err != nil {
		return fmt.Errorf("draw the gains: %w", err)
	}
	loop, err := c.loopBars()
	if err != nil {
		return fmt.Errorf("draw loop: %w", err)
	}
	return drawGrid(path, []*plot.Plot{throughput, gains, loop}, 3)
}

var (
	zeroColour  = color.RGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 255}
	plainColour = color.RGBA{R: 0xe8, G: 0x8b, B: 0x3a, A: 255}
	gainColour  = color.RGBA{R: 0x6a, G: 0xa8, B: 0x4f, A: 255}
	userColour  = color.RGBA{R: 0x60, G: 0x60, B: 0x60, A: 255}
)

// bySize makes an empty chart with the request sizes of null on its X axis.
func (c claims) bySize(title, label string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "request size", label
	var ticks []plot.Tick
	for _, size := range c.sizes(partNull) {
		ticks = append(ticks, plot.Tick{Value: math.Log2(float64(size)), Label: blockName(size)})
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.Legend.Top, p.Legend.Left = true, true
	smallText(p)
	return p
}

func smallText(p *plot.Plot) {
	p.Title.TextStyle.Font.Size, p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = 11, 9, 9
	p.Legend.TextStyle.Font.Size = 9
}

// headroom has the Y axis begin at 0, and end above the highest figure.
func headroom(p *plot.Plot) { p.Y.Min, p.Y.Max = 0, 1.2*p.Y.Max }

// line adds one figure of null by request size.
func (c claims) line(p *plot.Plot, rw, name string, colour color.Color, figure func(claim) float64) error {
	var points plotter.XYs
	for _, size := range c.sizes(partNull) {
		if row, ok := c.row(partNull, rw, size); ok {
			points = append(points, plotter.XY{X: math.Log2(float64(size)), Y: figure(row)})
		}
	}
	if len(points) == 0 {
		return nil
	}
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, dots.Color, line.Width, dots.Shape = colour, colour, 2, draw.CircleGlyph{}
	if rw == "write" {
		line.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
	}
	p.Add(line, dots)
	p.Legend.Add(name, line)
	return nil
}

func (c claims) throughputs() (*plot.Plot, error) {
	p := c.bySize("null, QD8", "thousand IOPS")
	var errs []error
	for _, rw := range []string{"read", "write"} {
		errs = append(errs,
			c.line(p, rw, rw+", zero copy", zeroColour, func(k claim) float64 { return k.Zero.IOPS / 1e3 }),
			c.line(p, rw, rw+", plain copy", plainColour, func(k claim) float64 { return k.Plain.IOPS / 1e3 }))
	}
	p.Legend.Top = false // where no line comes
	headroom(p)
	return p, errors.Join(errs...)
}

func (c claims) gains() (*plot.Plot, error) {
	p := c.bySize("null, QD8", "zero copy / plain copy, IOPS")
	var errs []error
	for _, rw := range []string{"read", "write"} {
		errs = append(errs, c.line(p, rw, rw, gainColour, func(k claim) float64 { byTime, _ := k.gain(); return byTime }))
	}
	p.Add(plotter.NewGrid())
	headroom(p)
	return p, errors.Join(errs...)
}

// loopBars is a group of bars for each direction and request size of loop.
func (c claims) loopBars() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = "loop over a file in memory, QD8", "MB/s"
	p.Legend.Top, p.Legend.Left = true, true
	smallText(p)
	var names []string
	var zero, plain, user plotter.Values
	for _, rw := range []string{"read", "write"} {
		for _, size := range c.sizes(partLoop) {
			row, ok := c.row(partLoop, rw, size)
			if !ok {
				continue
			}
			mb := float64(size) / 1e6
			names = append(names, rw+" "+blockName(size))
			zero, plain, user = append(zero, row.Zero.IOPS*mb), append(plain, row.Plain.IOPS*mb), append(user, row.User.IOPS*mb)
		}
	}
	if len(names) == 0 {
		return p, nil
	}
	const width = 14
	for i, mode := range []struct {
		name   string
		colour color.Color
		values plotter.Values
	}{{"zero copy", zeroColour, zero}, {"plain copy", plainColour, plain}, {"user copy", userColour, user}} {
		bars, err := plotter.NewBarChart(mode.values, width)
		if err != nil {
			return nil, err
		}
		bars.Color, bars.LineStyle.Width, bars.Offset = mode.colour, 0, vg.Length(i-1)*width
		p.Add(bars)
		p.Legend.Add(mode.name, bars)
	}
	p.NominalX(names...)
	headroom(p)
	return p, nil
}
