// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// newcomers measures the first read of a pid namespace that the daemon does not
// know: the init has to be found, and the container's groups.
func (b *bench) newcomers() error {
	b.section("First read of a new pid namespace", "Microseconds that it takes more than a warm read of the same file (uptime) by the same container: to find the init, and the container's control groups. Median and 99th percentile over the namespaces. The last column is a warm read with all of them known.")
	t := newTable("daemon", "namespaces", "first read", "x ioctl", "warm read")
	for _, n := range slices.Compact([]int{1, min(100, b.spaces), b.spaces}) {
		if err := b.measureNewcomers(t, n); err != nil {
			return fmt.Errorf("%d namespaces: %w", n, err)
		}
	}
	b.report.WriteString(t.String())
	return nil
}

func (b *bench) measureNewcomers(t *table, n int) error {
	repeat := 1
	if n == 1 {
		repeat = 21 // one at a time, the others gone
	}
	first, warm := map[string][]float64{}, map[string][]float64{}
	peers := []*peer{b.find(vprocfs), b.find(walking), b.find(forking)}
	if p := b.find(lxcfs); p != nil {
		peers = append(peers, p)
	}
	for r := range repeat {
		cs := make([]*container, 0, n)
		stop := func() {
			for _, c := range cs {
				c.stop()
			}
		}
		for i := range n {
			c, err := b.container(fmt.Sprintf("new-%d-%d-%d", n, r, i), 1)
			if err != nil {
				stop()
				return err
			}
			cs = append(cs, c)
		}
		for i, c := range cs {
			if err := firstReads(c, peers, i+r, first, warm); err != nil {
				stop()
				return err
			}
			b.meter.step()
		}
		stop()
	}
	base := median(first[vprocfs])
	for _, p := range peers {
		v := first[p.name]
		m := median(v) // sorts
		tail := v[min(len(v)-1, len(v)*99/100)]
		b.figures.Newcomers = append(b.figures.Newcomers, newcomerFigure{p.name, n, timing{m, tail}})
		t.row(p.name, strconv.Itoa(n), fmt.Sprintf("%.0f / %.0f", m, tail), fmt.Sprintf("%.1f", m/base), fmt.Sprintf("%.1f", median(warm[p.name])))
	}
	return nil
}

func firstReads(c *container, peers []*peer, turn int, first, warm map[string][]float64) error {
	if _, err := c.ask("cycle", 50, "/proc/uptime"); err != nil { // the agent itself is cold too
		return err
	}
	for i := range peers {
		p := peers[(i+turn)%len(peers)]
		cold, err := c.ask("cycle", 1, p.path("uptime"))
		if err != nil {
			return err
		}
		again, err := c.ask("cycle", 21, p.path("uptime"))
		if err != nil {
			return err
		}
		first[p.name] = append(first[p.name], float64(cold[0]-again[0])/1e3)
		warm[p.name] = append(warm[p.name], float64(again[0])/1e3)
	}
	return nil
}

// storms starts many containers at once, each of which reads all files once.
func (b *bench) storms() error {
	b.section("A storm of starts", fmt.Sprintf("%d containers, eight at a time, each starts, reads all files once and ends. Seconds; median of five storms, in turns. To make and remove their control groups is not counted.", b.storm))
	peers := b.main()
	peers = append(peers, b.find(walking), b.find(forking))
	peers = slices.DeleteFunc(peers, func(p *peer) bool { return p.name == floor })
	files := b.served()
	times := map[string][]float64{}
	dirs := make([][]string, b.storm)
	for i := range dirs {
		var err error
		if dirs[i], err = b.groups.add("storm-"+strconv.Itoa(i), 1); err != nil {
			return err
		}
	}
	for round := range 5 {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			took, err := storm(p, files, dirs)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			times[p.name] = append(times[p.name], took.Seconds())
			b.meter.step()
		}
	}
	t := newTable("files of", "seconds", "more than the kernel's, ms a container")
	base := median(times[native])
	for _, p := range peers {
		m := median(times[p.name])
		t.row(p.name, fmt.Sprintf("%.2f", m), fmt.Sprintf("%.2f", (m-base)*1e3/float64(b.storm)))
	}
	b.report.WriteString(t.String())
	return nil
}

func storm(p *peer, files []string, dirs [][]string) (time.Duration, error) {
	var group sync.WaitGroup
	errs := make(chan error, len(dirs))
	slots := make(chan struct{}, 8)
	start := time.Now()
	for _, d := range dirs {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			c, err := startAgent(agentCommand(), d)
			if err != nil {
				errs <- err
				return
			}
			defer c.stop()
			for _, f := range files {
				if _, err := c.ask("cycle", 1, p.path(f)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	close(errs)
	return took, <-errs
}
