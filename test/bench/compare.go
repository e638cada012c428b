// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/perf/benchmath"
)

// compareCommand compares two binaries.
const compareCommand = "compare"

// errSlower is returned by compareBinaries if the new binary is slower.
var errSlower = errors.New("the new binary is slower")

// comparison is the command line of compareCommand.
type comparison struct {
	old, new string  // paths of binaries; of a command line also revisions
	percent  float64 // by which the new binary may be slower
	sittings int
	rounds   int // of a sitting
	each     int // operations of a round
}

// confidence of the interval in which the ratio of two binaries is.
const confidence = 0.95

// minSittings is the least number of values whose range has the median in it with
// confidence: 1 - 2 * 0.5^6 is 0.97.
const minSittings = 6

func parseComparison(args []string) (c comparison, err error) {
	fl := pflag.NewFlagSet("bench compare", pflag.ContinueOnError)
	fl.SortFlags = false
	fl.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: bench compare OLD NEW\n\nOLD and NEW are binaries, or revisions of git, which are built. The exit status is 1 if NEW is slower.\n\n%s", fl.FlagUsages())
	}
	fl.Float64Var(&c.percent, "percent", 5, "by how much NEW may be slower, in percent")
	fl.IntVar(&c.sittings, "sittings", 12, "how often both daemons are started, at least 6")
	fl.IntVar(&c.rounds, "rounds", 20, "alternating rounds in a sitting")
	fl.IntVar(&c.each, "each", 200, "operations in a round")
	short := fl.Bool("short", false, "the form for a gate: 6 sittings of 12 rounds of 150, and 25 percent, unless these flags are given")
	if err := fl.Parse(args); err != nil {
		return c, err
	}
	if *short {
		for name, value := range map[string]string{"percent": "25", "sittings": "6", "rounds": "12", "each": "150"} {
			if fl.Changed(name) {
				continue
			}
			if err := fl.Set(name, value); err != nil {
				return c, err
			}
		}
	}
	switch {
	case fl.NArg() != 2:
		return c, errors.New("usage: bench compare OLD NEW")
	case c.sittings < minSittings || c.rounds < 1 || c.each < 1:
		return c, fmt.Errorf("%d sittings, %d rounds, %d operations: too few", c.sittings, c.rounds, c.each)
	case os.Geteuid() != 0:
		return c, errors.New("must be run as root")
	}
	c.old, c.new = fl.Arg(0), fl.Arg(1)
	return c, nil
}

// args returns the command line that parseComparison makes c of.
func (c *comparison) args() []string {
	return []string{
		"--percent", fmt.Sprint(c.percent), "--sittings", fmt.Sprint(c.sittings), "--rounds", fmt.Sprint(c.rounds), "--each", fmt.Sprint(c.each), "--", c.old, c.new,
	}
}

// compareRevisions compares two binaries in namespaces of their own. It builds those that
// are not there.
func compareRevisions(args []string) (err error) {
	c, err := parseComparison(args)
	if err != nil {
		return err
	}
	for i, what := range []*string{&c.old, &c.new} {
		if _, err := os.Stat(*what); errors.Is(err, os.ErrNotExist) {
			dir, err := os.MkdirTemp("", "vprocfs-bench-")
			if err != nil {
				return err
			}
			defer func() { _ = os.RemoveAll(dir) }() // a temporary directory
			binary := filepath.Join(dir, "vprocfs")
			if err := buildRevision(*what, dir, binary); err != nil {
				return fmt.Errorf("%s is no file, and cannot be built as a revision: %w", *what, err)
			}
			*what = binary
		} else if err != nil {
			return err
		}
		if *what, err = filepath.Abs(*what); err != nil {
			return err
		}
		fmt.Printf("%s: %s\n", []string{"old", "new"}[i], said(*what, "version"))
	}
	return inNamespaces(slices.Concat([]string{compareCommand}, c.args()))
}

// result is what was measured of one thing: a value of each round and binary, by sitting.
type result struct {
	what     string
	old, new [][]float64
}

// compareBinaries compares two binaries. It returns errSlower if the new one is slower by more
// than it may be.
func compareBinaries(b *bench, args []string) error {
	c, err := parseComparison(args)
	if err != nil {
		return err
	}
	results, err := b.sit(&c)
	if err != nil {
		return err
	}
	t, slower := judge(results, c.percent)
	fmt.Printf("\nMicroseconds of an open, read to the end and close on one CPU, and of the daemon's CPU time for it.\n"+
		"%d sittings of %d rounds of %d; the ratio is the median of the sittings', with its %.0f %% confidence interval.\n\n%s\n", c.sittings, c.rounds, c.each, 100*confidence, t)
	if slower > 0 {
		return fmt.Errorf("%w by more than %g %% in %d of %d", errSlower, c.percent, slower, len(results))
	}
	fmt.Printf("The new binary is nowhere slower by more than %g %%.\n", c.percent)
	return nil
}

// sit measures both binaries in turns.
func (b *bench) sit(c *comparison) ([]*result, error) {
	container, err := b.container("compare", 1)
	if err != nil {
		return nil, err
	}
	defer container.stop()
	if _, err := container.ask("pin", 0); err != nil {
		return nil, err
	}
	files := []string{"uptime", "loadavg", "meminfo", "stat", "cpuinfo"}
	var results []*result
	for _, file := range files {
		results = append(results, &result{what: file})
	}
	for _, file := range files {
		results = append(results, &result{what: "CPU of " + file})
	}
	b.meter.plan("sittings", c.sittings, time.Duration(c.sittings*c.rounds*c.each*len(files))*200*time.Microsecond)
	b.meter.enter("sittings")
	defer b.meter.leave()
	for sitting := range c.sittings {
		if err := b.sitOnce(c, container, sitting, files, results); err != nil {
			return nil, fmt.Errorf("sitting %d: %w", sitting+1, err)
		}
		b.meter.step()
	}
	return results, nil
}

// sitOnce starts both daemons, measures them, and ends them. One start of a daemon may be
// slower than another of the same binary.
func (b *bench) sitOnce(c *comparison, reader *container, sitting int, files []string, results []*result) error {
	peers := [2]*peer{{name: older}, {name: vprocfs}}
	binaries := [2]string{c.old, c.new}
	for i := range peers {
		i := (i + sitting) % 2
		p := peers[i]
		mount := filepath.Join(b.dir, fmt.Sprintf("%d-%d", sitting, i))
		p.dir, p.cmd = filepath.Join(mount, "proc"), serveCommand(binaries[i], mount)
		if err := p.start(mount); err != nil {
			return err
		}
		defer p.end()
		if err := p.pin(false); err != nil {
			return err
		}
	}
	for _, r := range results {
		r.old, r.new = append(r.old, nil), append(r.new, nil)
	}
	for round := range c.rounds + 1 {
		for n, file := range files {
			for i := range peers {
				i := (i + round) % 2
				p := peers[i]
				before := p.cpu()
				v, err := reader.ask("cycle", c.each, p.path(file))
				if err != nil {
					return err
				}
				used := p.cpu() - before
				if round == 0 {
					continue // the first is to warm up
				}
				for r, value := range map[*result]float64{results[n]: float64(v[0]) / 1e3, results[n+len(files)]: used.Seconds() * 1e6 / float64(c.each)} {
					of := []*[][]float64{&r.old, &r.new}[i]
					(*of)[sitting] = append((*of)[sitting], value)
				}
			}
		}
	}
	return nil
}

// judge returns a table of what was measured, and how much of it is slower than before by more
// than so many percent.
func judge(results []*result, percent float64) (t *table, slower int) {
	t = newTable("what", "old", "new", "new/old", "from", "to", "")
	for _, r := range results {
		ratio := r.ratio()
		verdict := ""
		switch {
		case ratio.Lo > 1+percent/100:
			verdict = "slower"
			slower++
		case ratio.Lo > 1:
			verdict = "slower, within the bound"
		case ratio.Hi < 1:
			verdict = "faster"
		}
		number := func(format string, v float64) string {
			if math.IsInf(v, 0) || math.IsNaN(v) {
				return "-"
			}
			return fmt.Sprintf(format, v)
		}
		t.row(r.what, fmt.Sprintf("%.1f", median(slices.Concat(r.old...))), fmt.Sprintf("%.1f", median(slices.Concat(r.new...))),
			number("%.3f", ratio.Center), number("%.3f", ratio.Lo), number("%.3f", ratio.Hi), verdict)
	}
	return t, slower
}

// ratio returns how long the new binary takes, in times of the old one: of each sitting the
// median of its rounds' ratios, and of these the median with its confidence interval, as
// benchstat makes it.
func (r *result) ratio() benchmath.Summary {
	var ratios []float64
	for i := range r.old {
		var rounds []float64
		for j := range r.old[i] {
			rounds = append(rounds, r.new[i][j]/r.old[i][j])
		}
		ratios = append(ratios, median(rounds))
	}
	return benchmath.AssumeNothing.Summary(benchmath.NewSample(ratios, &benchmath.DefaultThresholds), confidence)
}
