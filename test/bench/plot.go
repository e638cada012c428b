// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// plotCommand draws the figures of a file again.
func plotCommand(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: bench plot FILE.json")
	}
	f, err := readFigures(args[0])
	if err != nil {
		return err
	}
	return f.plot(args[0])
}

// plot draws what there is, beside the file at path.
func (f *figures) plot(path string) error {
	for _, p := range []struct {
		end  string
		draw func() (*plot.Plot, error)
	}{
		{"-latency.svg", f.latency},
		{"-init.svg", f.firstReads},
		{"-containers.svg", f.byContainers},
	} {
		drawn, err := p.draw()
		if err != nil {
			return fmt.Errorf("%s: %w", p.end, err)
		}
		if drawn == nil {
			continue
		}
		if err := save(drawn, beside(path, p.end)); err != nil {
			return err
		}
	}
	return nil
}

// The size of a plot.
const (
	plotWidth  = 8 * vg.Inch
	plotHeight = 4.5 * vg.Inch
)

func save(p *plot.Plot, path string) error {
	w, err := p.WriterTo(plotWidth, plotHeight, "svg")
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := w.WriteTo(f); err != nil {
		_ = f.Close() // the first error counts
		return err
	}
	return f.Close()
}

// look is how a peer is drawn. Colour alone tells some readers nothing.
type look struct {
	peer, label string
	color       color.Color
	shape       draw.GlyphDrawer
}

func looks() []look {
	return []look{
		{floor, "FUSE alone", color.Gray{0x80}, draw.SquareGlyph{}},
		{vprocfs, "vprocfs", color.RGBA{0x00, 0x72, 0xb2, 0xff}, draw.CircleGlyph{}},
		{walking, "vprocfs, parents", color.RGBA{0x00, 0x9e, 0x73, 0xff}, draw.PyramidGlyph{}},
		{forking, "vprocfs, fork", color.RGBA{0xcc, 0x79, 0xa7, 0xff}, draw.CrossGlyph{}},
		{lxcfs, "LXCFS", color.RGBA{0xd5, 0x5e, 0x00, 0xff}, draw.TriangleGlyph{}},
	}
}

// glyphRadius is the size of a point.
const glyphRadius = 3.5

// newPlot returns a plot whose y axis is logarithmic.
func newPlot(title, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Y.Label.Text = y
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
	p.Legend.Top = true
	p.Legend.Left = true
	p.Legend.XOffs, p.Legend.YOffs, p.Legend.Padding = 4, -4, 2
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	p.Add(grid)
	return p
}

// wholeDecades has the y axis begin and end with a power of ten.
func wholeDecades(p *plot.Plot) {
	p.Y.Min = math.Pow(10, math.Floor(math.Log10(p.Y.Min)))
	p.Y.Max = math.Pow(10, math.Ceil(math.Log10(p.Y.Max)))
}

// spans draws timings: a point at each median, and a line from there to the 99th percentile.
// At x = i stand those of the i-th name, side by side.
func spans(p *plot.Plot, names []string, at func(l look, i int) (timing, bool)) error {
	var drawn []look
	for _, l := range looks() {
		if slices.ContainsFunc(names, func(name string) bool { _, ok := at(l, slices.Index(names, name)); return ok }) {
			drawn = append(drawn, l)
		}
	}
	for n, l := range drawn {
		offset := 0.5 * ((float64(n)+0.5)/float64(len(drawn)) - 0.5)
		var points plotter.XYs
		for i := range names {
			t, ok := at(l, i)
			if !ok || t.Median <= 0 || t.P99 < t.Median {
				continue
			}
			x := float64(i) + offset
			points = append(points, plotter.XY{X: x, Y: t.Median})
			tail, err := plotter.NewLine(plotter.XYs{{X: x, Y: t.Median}, {X: x, Y: t.P99}})
			if err != nil {
				return err
			}
			tail.Color = l.color
			p.Add(tail)
		}
		if err := addPoints(p, l, points); err != nil {
			return err
		}
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	wholeDecades(p)
	return nil
}

// addPoints draws points, and names their peer in the legend.
func addPoints(p *plot.Plot, l look, points plotter.XYs) error {
	if len(points) == 0 {
		return nil
	}
	s, err := plotter.NewScatter(points)
	if err != nil {
		return err
	}
	s.GlyphStyle = draw.GlyphStyle{Color: l.color, Radius: glyphRadius, Shape: l.shape}
	p.Add(s)
	p.Legend.Add(l.label, s)
	return nil
}

// latency draws how long each file takes.
func (f *figures) latency() (*plot.Plot, error) {
	var names []string
	byFile := make(map[string]fileFigure)
	for _, v := range f.Files {
		if v.Op == "cycle" {
			names, byFile[v.File] = append(names, v.File), v
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	p := newPlot("Open, read to the end, close: median, and up to the 99th percentile", "microseconds")
	return p, spans(p, names, func(l look, i int) (timing, bool) {
		t, ok := byFile[names[i]].Peers[l.peer]
		return t, ok
	})
}

// firstReads draws how much longer the first read of a pid namespace takes.
func (f *figures) firstReads() (*plot.Plot, error) {
	type key struct {
		peer string
		n    int
	}
	var counts []int
	figure := make(map[key]timing)
	for _, v := range f.Newcomers {
		if !slices.Contains(counts, v.Namespaces) {
			counts = append(counts, v.Namespaces)
		}
		figure[key{v.Peer, v.Namespaces}] = v.First
	}
	if len(counts) == 0 {
		return nil, nil
	}
	var names []string
	for _, n := range counts {
		names = append(names, strconv.Itoa(n))
	}
	p := newPlot("First read of a pid namespace, beyond a later one (vprocfs: by ioctl): median to 99th percentile", "microseconds")
	p.X.Label.Text = "pid namespaces"
	return p, spans(p, names, func(l look, i int) (timing, bool) {
		t, ok := figure[key{l.peer, counts[i]}]
		return t, ok
	})
}

// byContainers draws the 99th percentile of a read by the number of containers.
func (f *figures) byContainers() (*plot.Plot, error) {
	if len(f.Containers) == 0 {
		return nil, nil
	}
	p := newPlot("Containers that read five files a second: 99th percentile of a read", "milliseconds")
	p.X.Label.Text = "containers"
	p.X.Scale = plot.LogScale{}
	var ticks []plot.Tick
	for _, l := range looks() {
		var points plotter.XYs
		for _, v := range f.Containers {
			if v.Peer != l.peer || v.P99 <= 0 {
				continue
			}
			x := float64(v.Containers)
			points = append(points, plotter.XY{X: x, Y: v.P99})
			tick := plot.Tick{Value: x, Label: strconv.Itoa(v.Containers)}
			if !slices.Contains(ticks, tick) {
				ticks = append(ticks, tick)
			}
		}
		if len(points) == 0 {
			continue
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		line.Color = l.color
		p.Add(line)
		if err := addPoints(p, l, points); err != nil {
			return nil, err
		}
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	wholeDecades(p)
	return p, nil
}
