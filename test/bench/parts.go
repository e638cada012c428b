// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
)

// served returns the names that vprocfs serves below proc, in the order of the
// table.
func (b *bench) served() []string {
	var names []string
	v := b.find(vprocfs)
	for _, name := range []string{"uptime", "loadavg", "meminfo", "stat", "cpuinfo", "swaps", "diskstats", "slabinfo"} {
		// A peek with O_PATH: the mount's own process is another.
		if _, err := os.Lstat(v.path(name)); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// median returns the middle one of v, which it sorts.
func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// files measures each file for one reader, all on one CPU: there a round trip is
// work, and not the waking of idle CPUs.
func (b *bench) files() error {
	c, err := b.container("files", 1)
	if err != nil {
		return err
	}
	defer c.stop()
	if _, err := c.ask("pin", 0); err != nil {
		return err
	}
	peers := b.main()
	for _, p := range peers {
		if err := p.pin(false); err != nil {
			return err
		}
	}
	for _, op := range []string{"cycle", "pread"} {
		title := "open, read, read (end), close"
		if op == "pread" {
			title = "pread at 0 of an open file"
		}
		b.section("One reader, one CPU: "+title, `Microseconds; median and 99th percentile, each the median of the rounds'. Sources: the same done with each of the files that vprocfs reads for it, the
kernel's file of the same name mostly among them. The last columns are what the daemons use of the CPU for one.`)
		t := newTable("file", "kernel", "sources", "floor", "vprocfs", "LXCFS", "vprocfs/floor", "LXCFS/vprocfs", "beyond floor, in sources", "CPU floor", "CPU vprocfs", "CPU LXCFS", "CPU vprocfs/LXCFS")
		for _, file := range b.served() {
			sources, err := b.sources(c, file)
			if err == nil {
				err = b.measureFile(t, c, op, file, peers, sources)
			}
			if err != nil {
				return fmt.Errorf("%s %s: %w", op, file, err)
			}
		}
		b.report.WriteString(t.String())
	}
	for _, p := range peers {
		if err := p.pin(true); err != nil {
			return err
		}
	}
	return nil
}

// fromSources stands among the peers for reading what vprocfs reads.
const fromSources = "sources"

func (b *bench) measureFile(t *table, c *container, op, file string, peers []*peer, sources []string) error {
	mid, tail, cpu := map[string][]float64{}, map[string][]float64{}, map[string]float64{}
	note := func(name string, v []int64) {
		mid[name] = append(mid[name], float64(v[0])/1e3)
		tail[name] = append(tail[name], float64(v[1])/1e3)
	}
	command := []any{op, b.each}
	for _, path := range sources {
		command = append(command, path)
	}
	for round := range b.rounds + 1 {
		if len(sources) > 0 {
			v, err := c.ask(command...)
			if err != nil {
				return err
			}
			if round > 0 {
				note(fromSources, v)
			}
		}
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			before := p.cpu()
			v, err := c.ask(op, b.each, p.path(file))
			if err != nil {
				return err
			}
			if round == 0 {
				continue // the first is to warm up
			}
			note(p.name, v)
			cpu[p.name] += float64(p.cpu()-before) / 1e3 / float64(b.rounds*b.each)
		}
	}
	b.meter.step()
	figure := fileFigure{Op: op, File: file, Peers: make(map[string]timing)}
	for name := range mid {
		figure.Peers[name] = timing{median(mid[name]), median(tail[name])}
	}
	b.figures.Files = append(b.figures.Files, figure)
	m := map[string]float64{}
	cell := func(name string) string {
		if len(mid[name]) == 0 {
			return "-"
		}
		m[name] = median(mid[name])
		return fmt.Sprintf("%.1f / %.1f", m[name], median(tail[name]))
	}
	row := []string{file, cell(native), cell(fromSources), cell(floor), cell(vprocfs), cell(lxcfs)}
	row = append(row, fmt.Sprintf("%.2f", m[vprocfs]/m[floor]), "-", "-", fmt.Sprintf("%.1f", cpu[floor]), fmt.Sprintf("%.1f", cpu[vprocfs]), "-", "-")
	if m[fromSources] > 0 {
		row[8] = fmt.Sprintf("%.2f", (m[vprocfs]-m[floor])/m[fromSources])
	}
	if m[lxcfs] > 0 {
		row[7] = fmt.Sprintf("%.1f", m[lxcfs]/m[vprocfs])
		row[11] = fmt.Sprintf("%.1f", cpu[lxcfs])
		row[12] = fmt.Sprintf("%.2f", cpu[vprocfs]/cpu[lxcfs])
	}
	t.row(row...)
	return nil
}
