// Command benchplot draws the results of make bench: benchplot bench.json bench.svg. The machine is named in the title.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// results are what integration/bench_report_test.go writes; durations are in nanoseconds.
type results struct {
	Machine struct {
		CPU        string `json:"cpu"`
		Processors int    `json:"processors"`
		MemoryMiB  int    `json:"memory_mib"`
		Kernel     string `json:"kernel"`
		At         string `json:"at"`
	} `json:"machine"`
	Rows []row `json:"rows"`
}

type row struct {
	Benchmark  string `json:"benchmark"`
	Case       string `json:"case"`
	MiB        int    `json:"mib"`
	Containers int    `json:"containers"`
	Samples    []struct {
		Create int64 `json:"create"`
		Start  int64 `json:"start"`
	} `json:"samples"`
}

// seconds is the median of what a caller waits for.
func (r *row) seconds() float64 {
	var all []int64
	for _, s := range r.Samples {
		all = append(all, s.Create+s.Start)
	}
	slices.Sort(all)
	return float64(all[(len(all)-1)/2]) / 1e9
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: benchplot bench.json bench.svg")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "benchplot:", err)
		os.Exit(1)
	}
}

func run(in, out string) (err error) {
	data, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	var r results
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	m := r.Machine
	machine := fmt.Sprintf("%s, %d processors, %d GiB, Linux %s, %.10s", m.CPU, m.Processors, (m.MemoryMiB+512)/1024, m.Kernel, m.At)
	restore, err := panel("Restore: create + start\n"+machine, r.Rows, "restore", "runc alone", "2.3.7 image", "2.3.7 archive", "eager image", "eager archive", "lazy image")
	if err != nil {
		return err
	}
	checkpoint, err := panel("Checkpoint\n ", r.Rows, "checkpoint", "stock 2.4", "our archive", "our archive zstd", "our image")
	if err != nil {
		return err
	}
	canvas := vgsvg.New(30*vg.Centimeter, 13*vg.Centimeter)
	tiles := draw.Tiles{Rows: 1, Cols: 2, PadX: vg.Centimeter, PadTop: vg.Millimeter * 3, PadLeft: vg.Millimeter * 3, PadRight: vg.Millimeter * 3, PadBottom: vg.Millimeter * 3}
	plots := [][]*plot.Plot{{restore, checkpoint}}
	for i, c := range plot.Align(plots, tiles, draw.New(canvas))[0] {
		plots[0][i].Draw(c)
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// panel draws seconds over MiB of memory, both logarithmic, a line for each case.
func panel(title string, rows []row, benchmark string, cases ...string) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "memory, MiB", "median, s"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	var args []any
	ticks := map[int]bool{}
	for _, name := range cases {
		var points plotter.XYs
		for i := range rows {
			if r := &rows[i]; r.Benchmark == benchmark && r.Case == name && r.Containers == 1 && len(r.Samples) > 0 {
				points = append(points, plotter.XY{X: float64(r.MiB), Y: r.seconds()})
				ticks[r.MiB] = true
			}
		}
		if len(points) == 0 {
			return nil, fmt.Errorf("no results of %s %q: run make bench without BENCH", benchmark, name)
		}
		args = append(args, strings.TrimSpace(name), points)
	}
	var marks plot.ConstantTicks
	for mib := range ticks {
		marks = append(marks, plot.Tick{Value: float64(mib), Label: fmt.Sprint(mib)})
	}
	p.X.Tick.Marker = marks
	return p, plotutil.AddLinePoints(p, args...)
}
