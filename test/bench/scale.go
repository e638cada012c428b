// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scaleFiles are what the containers of the part scale read each second.
func (b *bench) scaleFiles() []string {
	files := []string{"uptime", "loadavg", "meminfo", "stat", "diskstats"}
	served := b.served()
	for i, f := range files {
		if !slices.Contains(served, f) {
			files[i] = "cpuinfo"
		}
	}
	return files
}

// scaleSlack is how many descriptors may stay when the containers are gone: those
// of the two that cost is measured in.
const scaleSlack = 64

// scalePatience is how long the daemon may take to give memory and descriptors
// back. Go collects garbage at least every two minutes, and returns what is free to
// the kernel bit by bit.
const scalePatience = 6 * time.Minute

// peersPeriod is how long, in seconds, those read that vprocfs is compared with.
const peersPeriod = 30

// windowSeconds is WINDOW of reader.c.
const windowSeconds = 10

// window is what happened in some seconds of a run.
type window struct {
	longest time.Duration // of a read
	stolen  float64       // percent of the time of all CPUs
}

// pace is what containers got that read all the time.
type pace struct {
	peer         string
	containers   int
	seconds      int
	reads        int64
	tail         float64 // 99th percentile in milliseconds, the median of the containers'
	longest      time.Duration
	cpu          float64 // of the daemon, percent of one CPU
	idle, stolen float64 // percent of all CPUs
	windows      []window
}

func newPaceTable() *table {
	return newTable("files of", "containers", "seconds", "reads", "99th percentile", "longest", "daemon's CPU, %", "CPUs idle, %", "CPUs stolen, %")
}

func (p *pace) addTo(t *table) {
	t.row(p.peer, strconv.Itoa(p.containers), strconv.Itoa(p.seconds), strconv.FormatInt(p.reads, 10), fmt.Sprintf("%.2f", p.tail), inMilliseconds(p.longest),
		fmt.Sprintf("%.0f", p.cpu), fmt.Sprintf("%.0f", p.idle), fmt.Sprintf("%.1f", p.stolen))
}

// keepPace has all containers read the files of a peer for so many seconds. It calls look once
// a second.
func (b *bench) keepPace(p *peer, cs []*container, seconds int, look func()) (*pace, error) {
	cpu := p.cpu()
	before, err := readCPUTimes()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	times := []cpuTimes{before} // each second
	told := make(chan error, 1)
	go func() { told <- b.tellAll(p, cs, seconds) }() // takes seconds where the CPUs have no time left
	for time.Since(start) < time.Duration(seconds)*time.Second {
		time.Sleep(time.Until(start.Add(time.Duration(len(times)) * time.Second)))
		now, err := readCPUTimes()
		if err != nil {
			return nil, err
		}
		times = append(times, now)
		b.meter.step()
		look()
	}
	if err := <-told; err != nil {
		return nil, err
	}
	r := &pace{peer: p.name, containers: len(cs), seconds: seconds}
	r.windows = make([]window, (seconds+windowSeconds-1)/windowSeconds)
	var tails []float64
	for _, c := range cs {
		v, err := c.hear()
		if err != nil {
			return nil, err
		}
		if len(v) != 3+len(r.windows) {
			return nil, fmt.Errorf("the container's agent: %d numbers", len(v))
		}
		r.reads += v[0]
		tails = append(tails, float64(v[2])/1e6)
		for i, n := range v[3:] {
			r.windows[i].longest = max(r.windows[i].longest, time.Duration(n))
			r.longest = max(r.longest, time.Duration(n))
		}
	}
	r.tail = median(tails)
	for i := range r.windows {
		// The last container begins one second after the first.
		from, to := times[i*windowSeconds], times[min((i+1)*windowSeconds+1, len(times)-1)]
		_, r.windows[i].stolen = to.shares(from)
	}
	took := time.Since(start)
	after, err := readCPUTimes()
	if err != nil {
		return nil, err
	}
	r.idle, r.stolen = after.shares(before)
	r.cpu = 100 * (p.cpu() - cpu).Seconds() / took.Seconds()
	return r, nil
}

// tellAll has each container read p's files every second, for so many seconds. They begin one
// after the other, in the course of a second.
func (b *bench) tellAll(p *peer, cs []*container, seconds int) error {
	for _, c := range cs {
		command := []any{"every", 1000, seconds}
		for _, f := range b.scaleFiles() {
			command = append(command, p.path(f))
		}
		if err := c.tell(command...); err != nil {
			return err
		}
		time.Sleep(time.Second / time.Duration(len(cs)))
	}
	return nil
}

func inMilliseconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1e3) }

// byStolen sorts windows by what was stolen in them.
func byStolen(windows []window) *table {
	t := newTable("CPUs stolen, %", "windows", "longest read, median", "longest")
	least := 0.0
	for _, c := range []struct {
		name string
		most float64
	}{{"less than 0.1", 0.1}, {"up to 1", 1}, {"up to 5", 5}, {"more", 101}} {
		var longest []float64
		for _, w := range windows {
			if w.stolen >= least && w.stolen < c.most {
				longest = append(longest, w.longest.Seconds()*1e3)
			}
		}
		least = c.most
		if len(longest) > 0 {
			t.row(c.name, strconv.Itoa(len(longest)), fmt.Sprintf("%.1f", median(longest)), fmt.Sprintf("%.1f", slices.Max(longest)))
		}
	}
	return t
}

// scales lets many containers read five files every second.
func (b *bench) scales() error {
	p, fl := b.find(vprocfs), b.find(floor)
	b.section("Many containers", fmt.Sprintf("%d containers read %s once a second. Milliseconds; the 99th percentile is the median of the containers'. What is stolen the machine's own host has given to others.", b.scale, strings.Join(b.scaleFiles(), ", ")))
	beforeRSS, beforeFDs := p.status("VmRSS"), p.descriptors()
	probe, err := b.container("probe", 2)
	if err != nil {
		return err
	}
	defer probe.stop()
	deep, err := b.container("deep", 8)
	if err != nil {
		return err
	}
	defer deep.stop()
	all, err := b.newCrowd("scale")
	if err != nil {
		return err
	}
	defer all.stop()
	cost := newTable("what", "file", "us", "in floors")
	measure := func(what string, c *container) error {
		for _, f := range b.scaleFiles() {
			view, constant, err := b.against(c, p.path(f), fl.path(f))
			if err != nil {
				return err
			}
			cost.row(what, f, fmt.Sprintf("%.1f", view), fmt.Sprintf("%.3f", view/constant))
		}
		return nil
	}
	pinned := []*peer{p, fl}
	for _, q := range pinned {
		if err := q.pin(false); err != nil {
			return err
		}
	}
	for _, c := range []*container{probe, deep} {
		if _, err := c.ask("pin", 0); err != nil {
			return err
		}
	}
	for _, n := range []int{b.scale / 10, b.scale} {
		if err := all.grow(n); err != nil {
			return err
		}
		if err := measure(fmt.Sprintf("%d containers known", n), probe); err != nil {
			return err
		}
	}
	if err := measure("the group 8 levels deep, not 2", deep); err != nil {
		return err
	}
	for _, q := range pinned {
		if err := q.pin(true); err != nil {
			return err
		}
	}
	t := newPaceTable()
	for _, q := range b.paced() {
		r, err := b.keepPace(q, all.containers, min(b.period, peersPeriod), func() {})
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		r.addTo(t)
	}
	rss, fds := 0, 0
	r, err := b.keepPace(p, all.containers, b.period, func() { rss, fds = max(rss, p.status("VmRSS")), max(fds, p.descriptors()) })
	if err != nil {
		return err
	}
	r.addTo(t)
	all.stop()
	gone := time.Now()
	afterRSS, afterFDs := p.status("VmRSS"), p.descriptors()
	for time.Since(gone) < scalePatience && (afterFDs > beforeFDs+scaleSlack || afterRSS > beforeRSS+rss/8) {
		time.Sleep(time.Second)
		afterRSS, afterFDs = p.status("VmRSS"), p.descriptors()
	}
	back := time.Since(gone)
	b.report.WriteString(t.String() + "\n")
	b.report.WriteString(fmt.Sprintf("The run with vprocfs in windows of %d seconds, by what was stolen in them: the longest read of all containers, in milliseconds.\n\n", windowSeconds))
	b.report.WriteString(byStolen(r.windows).String() + "\n")
	b.report.WriteString("What vprocfs's daemon holds before the containers are there, at most, and some time after they have ended:\n\n")
	t = newTable("what", "before", "at most", "after")
	t.row("RSS, KiB", strconv.Itoa(beforeRSS), strconv.Itoa(rss), strconv.Itoa(afterRSS))
	t.row("descriptors", strconv.Itoa(beforeFDs), strconv.Itoa(fds), strconv.Itoa(afterFDs))
	t.row("seconds", "", "", fmt.Sprintf("%.0f", back.Seconds()))
	b.report.WriteString(t.String() + "\nWhat one read costs, all on one CPU, where so many containers are known:\n\n")
	b.report.WriteString(cost.String())
	return nil
}

// cpuTimes are all CPUs' of /proc/stat, in clock ticks.
type cpuTimes struct{ all, idle, stolen uint64 }

func readCPUTimes() (t cpuTimes, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	var f [8]uint64 // user nice system idle iowait irq softirq steal
	if _, err := fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d", &f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6], &f[7]); err != nil {
		return t, fmt.Errorf("/proc/stat: %w", err)
	}
	for _, v := range f {
		t.all += v
	}
	t.idle, t.stolen = f[3]+f[4], f[7]
	return t, nil
}

// shares tells what part of the time since was idle, and stolen, in percent.
func (t cpuTimes) shares(since cpuTimes) (idle, stolen float64) {
	all := float64(max(t.all-since.all, 1))
	return 100 * float64(t.idle-since.idle) / all, 100 * float64(t.stolen-since.stolen) / all
}

// against measures two paths in turns: medians, in microseconds.
func (b *bench) against(c *container, one, two string) (float64, float64, error) {
	var v [2][]float64
	for range b.rounds {
		for i, path := range []string{one, two} {
			n, err := c.ask("cycle", b.each, path)
			if err != nil {
				return 0, 0, err
			}
			v[i] = append(v[i], float64(n[0])/1e3)
		}
	}
	return median(v[0]), median(v[1]), nil
}
