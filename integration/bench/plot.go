package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

const columns = 4

func init() { plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"} }

// plot draws one small chart for each step, and two for the copy modes, as a PNG.
func (r *results) plot(path string) error {
	var charts []*plot.Plot
	for _, s := range r.Steps {
		if s.Part == partMain {
			c, err := r.bars(s)
			if err != nil {
				return fmt.Errorf("draw %s: %w", s.Name, err)
			}
			charts = append(charts, c)
		}
	}
	for _, rw := range []string{"randread", "randwrite"} {
		c, err := r.lines(rw)
		if err != nil {
			return fmt.Errorf("draw the copy modes: %w", err)
		}
		if c != nil {
			charts = append(charts, c)
		}
	}
	if len(charts) == 0 {
		return nil
	}
	return drawGrid(path, charts, columns)
}

// drawGrid draws charts side by side, at most columns in a row, as a PNG.
func drawGrid(path string, charts []*plot.Plot, columns int) error {
	rows := (len(charts) + columns - 1) / columns
	img := vgimg.NewWith(vgimg.UseWH(vg.Length(columns)*11*vg.Centimeter, vg.Length(rows)*7.2*vg.Centimeter), vgimg.UseDPI(110))
	canvas := draw.New(img)
	tiles := draw.Tiles{
		Rows: rows, Cols: columns, PadX: 0.8 * vg.Centimeter, PadY: 0.9 * vg.Centimeter,
		PadTop: 0.5 * vg.Centimeter, PadBottom: 0.5 * vg.Centimeter, PadLeft: 0.5 * vg.Centimeter, PadRight: 0.5 * vg.Centimeter,
	}
	grid := make([][]*plot.Plot, rows)
	for i := range grid {
		grid[i] = make([]*plot.Plot, columns)
		copy(grid[i], charts[i*columns:min((i+1)*columns, len(charts))])
	}
	for i, row := range plot.Align(grid, tiles, canvas) {
		for j, c := range row {
			if grid[i][j] != nil {
				grid[i][j].Draw(c)
			}
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}

// family is the colour of a contender.
func family(name string) color.Color {
	switch {
	case strings.HasPrefix(name, "varve volume"):
		return color.RGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 255}
	case strings.HasPrefix(name, "varve"):
		return color.RGBA{R: 0x7f, G: 0xb2, B: 0xe5, A: 255}
	case strings.HasPrefix(name, "kublk"):
		return color.RGBA{R: 0xe8, G: 0x8b, B: 0x3a, A: 255}
	case strings.HasPrefix(name, "dm-"):
		return color.RGBA{R: 0x6a, G: 0xa8, B: 0x4f, A: 255}
	}
	return color.RGBA{R: 0xa0, G: 0xa0, B: 0xa0, A: 255}
}

// bars is one step: a bar for each contender, the first at the top, its figure at its end.
func (r *results) bars(s step) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = s.Title, "MB/s"
	figure, scale, format := mbps, 1.0, "%.0f"
	if !s.bandwidth() {
		p.X.Label.Text, figure, scale, format = "thousand IOPS", iops, 1e3, "%.1f"
	}
	names := r.names(partMain)
	var ticks []plot.Tick
	var labels plotter.XYLabels
	highest := 0.0
	for i, name := range names {
		y := float64(len(names) - 1 - i)
		ticks = append(ticks, plot.Tick{Value: y, Label: name})
		v, ok := r.median(s.Name, name, figure)
		if !ok {
			continue
		}
		v /= scale
		highest = max(highest, v)
		bar, err := plotter.NewBarChart(plotter.Values{v}, 11)
		if err != nil {
			return nil, err
		}
		bar.Horizontal, bar.XMin, bar.Color, bar.LineStyle.Width = true, y, family(name), 0
		p.Add(bar)
		labels.XYs = append(labels.XYs, plotter.XY{X: v, Y: y})
		labels.Labels = append(labels.Labels, " "+fmt.Sprintf(format, v))
	}
	text, err := plotter.NewLabels(labels)
	if err != nil {
		return nil, err
	}
	for i := range text.TextStyle {
		text.TextStyle[i].YAlign = draw.YCenter
		text.TextStyle[i].Font = font.From(plot.DefaultFont, 9)
	}
	p.Add(text)
	p.X.Min, p.X.Max = 0, highest*1.22
	// The bars carry their figures.
	p.X.Tick.Marker = plot.ConstantTicks(nil)
	p.Title.TextStyle.Font.Size, p.X.Label.TextStyle.Font.Size = 11, 9
	p.Y.Min, p.Y.Max = -0.7, float64(len(names))-0.3
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	p.Y.Tick.Length, p.Y.Width = 0, 0
	return p, nil
}

// lines is throughput by request size, a line for each copy mode; nil if that was not measured.
func (r *results) lines(rw string) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = "copy modes, "+rw+" QD8", "request size", "MB/s"
	p.Legend.Top, p.Legend.Left = true, true
	colours := []color.Color{
		color.RGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 255}, color.RGBA{R: 0xe8, G: 0x8b, B: 0x3a, A: 255}, color.RGBA{R: 0x60, G: 0x60, B: 0x60, A: 255},
	}
	var ticks []plot.Tick
	drawn := false
	for i, name := range r.names(partCopy) {
		var points plotter.XYs
		ticks = ticks[:0]
		for _, s := range r.Steps {
			if s.Part != partCopy || s.RW != rw {
				continue
			}
			x := math.Log2(float64(s.Block))
			ticks = append(ticks, plot.Tick{Value: x, Label: blockName(s.Block)})
			if v, ok := r.median(s.Name, name, mbps); ok {
				points = append(points, plotter.XY{X: x, Y: v})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, dots.Color, line.Width = colours[i%len(colours)], colours[i%len(colours)], 2
		dots.Shape = draw.CircleGlyph{}
		p.Add(line, dots)
		p.Legend.Add(strings.TrimPrefix(name, "copy "), line)
		drawn = true
	}
	if !drawn {
		return nil, nil
	}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.Title.TextStyle.Font.Size, p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = 11, 9, 9
	return p, nil
}

// blockName is a request size in words.
func blockName(n int) string {
	if n < 1<<20 {
		return fmt.Sprintf("%dk", n>>10)
	}
	return fmt.Sprintf("%dM", n>>20)
}
