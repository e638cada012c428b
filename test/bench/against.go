// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// quartiles returns the first and the third quartile of v, which it sorts.
func quartiles(v []float64) (first, third float64) {
	slices.Sort(v)
	return v[len(v)/4], v[len(v)*3/4]
}

// versions are the peers that againstOld compares: the older binary, the binary to
// measure, and a second daemon of the latter. What differs between the last two is noise.
func (b *bench) versions() []*peer { return []*peer{b.find(older), b.find(vprocfs), b.find(second)} }

// againstOld compares the binary with an older one, in rounds that alternate.
func (b *bench) againstOld() error {
	if b.find(older) == nil {
		return errors.New("name the older binary with --old")
	}
	c, err := b.container("against", 1)
	if err != nil {
		return err
	}
	defer c.stop()
	b.section("Against an older vprocfs", fmt.Sprintf(`Time of the new daemon in times of the old one, by the same reader: the median of the rounds' ratios, and their middle half.
Control is a second daemon of the new binary in times of the first: what it is away from 1 is noise. The first rows are one reader on one CPU (microseconds), the last many
readers on all CPUs (microseconds of a read). Old: %s.`, said(b.old, "version")))
	t := newTable("what", "file", "old", "new", "new/old", "middle half", "control", "middle half")
	if _, err := c.ask("pin", 0); err != nil {
		return err
	}
	for _, p := range b.versions() {
		if err := p.pin(false); err != nil {
			return err
		}
	}
	files := slices.DeleteFunc(b.served(), func(f string) bool { return f == "slabinfo" })
	files = append(files, "../sys/devices/system/cpu/online")
	for _, op := range []struct{ name, title string }{
		{"cycle", "open, read, read, close"}, {"fstat", "open, fstat, read, read, close"}, {"pread", "pread"},
	} {
		for _, file := range files {
			ask := func(p *peer) (float64, error) {
				v, err := c.ask(op.name, b.each, p.path(file))
				if err != nil {
					return 0, err
				}
				return float64(v[0]) / 1e3, nil
			}
			if err := b.compare(t, op.title, file, ask); err != nil {
				return fmt.Errorf("%s %s: %w", op.name, file, err)
			}
		}
	}
	for _, p := range b.versions() {
		if err := p.pin(true); err != nil {
			return err
		}
	}
	free, err := b.container("against-free", 1)
	if err != nil {
		return err
	}
	defer free.stop()
	mix := slices.DeleteFunc(b.served(), func(f string) bool { return f == "slabinfo" || f == "swaps" })
	for _, threads := range []int{1, 4, 16} {
		ask := func(p *peer) (float64, error) {
			const millis = 100
			command := []any{"load", "cycle", threads, millis}
			for _, f := range mix {
				command = append(command, p.path(f))
			}
			v, err := free.ask(command...)
			if err != nil {
				return 0, err
			}
			return 1e6 / float64(max(v[0], 1)), nil
		}
		if err := b.compare(t, strconv.Itoa(threads)+" threads", strings.Join(mix, " "), ask); err != nil {
			return fmt.Errorf("%d threads: %w", threads, err)
		}
	}
	b.report.WriteString(t.String())
	return nil
}

// compare adds a row of what ask returns for each version.
func (b *bench) compare(t *table, what, file string, ask func(*peer) (float64, error)) error {
	var ratio, control, was, is []float64
	peers := b.versions()
	for round := range b.rounds + 1 {
		var v [3]float64
		for i := range peers {
			j := (i + round) % len(peers)
			var err error
			if v[j], err = ask(peers[j]); err != nil {
				return err
			}
		}
		if round == 0 {
			continue // the first is to warm up
		}
		was, is = append(was, v[0]), append(is, v[1])
		ratio, control = append(ratio, v[1]/v[0]), append(control, v[2]/v[1])
	}
	b.meter.step()
	middle := func(v []float64) string {
		from, to := quartiles(v)
		return fmt.Sprintf("%.2f to %.2f", from, to)
	}
	t.row(what, file, fmt.Sprintf("%.1f", median(was)), fmt.Sprintf("%.1f", median(is)), fmt.Sprintf("%.3f", median(ratio)), middle(ratio), fmt.Sprintf("%.3f", median(control)), middle(control))
	return nil
}
