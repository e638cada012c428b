// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// crowd are containers whose agent is that of buildReader.
type crowd struct {
	b          *bench
	name       string
	reader     string
	containers []*container
}

func (b *bench) newCrowd(name string) (*crowd, error) {
	reader, err := b.buildReader()
	return &crowd{b: b, name: name, reader: reader}, err
}

// grow starts containers until there are n. Each reads its files once, of all peers that serve
// in the ordinary way.
func (c *crowd) grow(n int) error {
	for len(c.containers) < n {
		one, err := c.b.containerWith(exec.Command(c.reader), c.name+"-"+strconv.Itoa(len(c.containers)), 2)
		if err != nil {
			return err
		}
		c.containers = append(c.containers, one)
		for _, f := range c.b.scaleFiles() {
			if _, err := one.ask("cycle", 1, c.b.find(vprocfs).path(f)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *crowd) stop() {
	for _, one := range c.containers {
		one.stop()
	}
	c.containers = nil
}

// reachSeconds is how long the containers of the part reach read the files of a peer.
const reachSeconds = 10

// reachCounts are the numbers of containers of the part reach.
func (b *bench) reachCounts() []int {
	counts := []int{10, 30, 100, 200, 300, 500, b.scale}
	return slices.Compact(slices.DeleteFunc(counts, func(n int) bool { return n > b.scale }))
}

// reach lets more and more containers read five files every second.
func (b *bench) reach() error {
	b.section("By the number of containers", fmt.Sprintf("Containers that read %s once a second. Milliseconds; the 99th percentile is the median of the containers'. What is stolen the machine's own host has given to others.", strings.Join(b.scaleFiles(), ", ")))
	all, err := b.newCrowd("reach")
	if err != nil {
		return err
	}
	defer all.stop()
	t := newPaceTable()
	for _, n := range b.reachCounts() {
		if err := all.grow(n); err != nil {
			return err
		}
		for _, p := range b.paced() {
			r, err := b.keepPace(p, all.containers, reachSeconds, func() {})
			if err != nil {
				return fmt.Errorf("%s, %d containers: %w", p.name, n, err)
			}
			r.addTo(t)
			b.figures.Containers = append(b.figures.Containers, containerFigure{p.name, n, r.tail, r.cpu, r.stolen})
		}
	}
	b.report.WriteString(t.String())
	return nil
}
