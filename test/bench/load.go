// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// threads measures many readers on all CPUs.
func (b *bench) threads() error {
	c, err := b.container("threads", 1)
	if err != nil {
		return err
	}
	defer c.stop()
	mix := b.served()
	// What a monitoring agent reads each time it looks.
	mix = slices.DeleteFunc(mix, func(f string) bool { return f == "slabinfo" || f == "swaps" })
	b.section("Many readers, all CPUs", fmt.Sprintf("Thousands of operations a second, and the 99th percentile in microseconds; medians of the rounds. The mix is %s in turn. CPU is the daemon's for one operation, in microseconds.", strings.Join(mix, ", ")))
	t := newTable("what", "threads", "kernel", "floor", "vprocfs", "LXCFS", "vprocfs/LXCFS", "CPU vprocfs", "CPU LXCFS", "CPU vprocfs/LXCFS")
	for _, w := range []struct {
		name, op string
		files    []string
	}{
		{"uptime", "cycle", []string{"uptime"}},
		{"meminfo", "cycle", []string{"meminfo"}},
		{"stat", "cycle", []string{"stat"}},
		{"mix", "cycle", mix},
		{"mix, pread", "pread", mix},
	} {
		for _, threads := range []int{1, 4, 16} {
			if err := b.measureLoad(t, c, w.name, w.op, w.files, threads); err != nil {
				return fmt.Errorf("%s with %d threads: %w", w.name, threads, err)
			}
		}
	}
	b.report.WriteString(t.String())
	return nil
}

func (b *bench) measureLoad(t *table, c *container, name, op string, files []string, threads int) error {
	const millis = 100
	rate, tail, cpu := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	peers := b.main()
	for round := range b.rounds {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			command := []any{"load", op, threads, millis}
			for _, f := range files {
				command = append(command, p.path(f))
			}
			before := p.cpu()
			v, err := c.ask(command...)
			if err != nil {
				return err
			}
			rate[p.name] = append(rate[p.name], float64(v[0])/1e3)
			tail[p.name] = append(tail[p.name], float64(v[2])/1e3)
			cpu[p.name] = append(cpu[p.name], float64(p.cpu()-before)/1e3/(float64(v[0])*millis/1e3))
		}
	}
	b.meter.step()
	cell := func(name string) string {
		if len(rate[name]) == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f / %.0f", median(rate[name]), median(tail[name]))
	}
	row := []string{name, strconv.Itoa(threads), cell(native), cell(floor), cell(vprocfs), cell(lxcfs), "-", fmt.Sprintf("%.1f", median(cpu[vprocfs])), "-", "-"}
	if len(rate[lxcfs]) > 0 {
		row[6] = fmt.Sprintf("%.2f", median(rate[vprocfs])/median(rate[lxcfs]))
		row[8] = fmt.Sprintf("%.1f", median(cpu[lxcfs]))
		row[9] = fmt.Sprintf("%.2f", median(cpu[vprocfs])/median(cpu[lxcfs]))
	}
	t.row(row...)
	return nil
}
