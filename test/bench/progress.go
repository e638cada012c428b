// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// meter shows on a terminal how far a run is and how long it will take. If there is no
// terminal it shows a line for each part. It is safe for concurrent use.
type meter struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	mu    sync.Mutex
	parts []*stage
	part  *stage // that is measured; nil if none is
}

// stage is a part of a run.
type stage struct {
	name    string
	steps   int
	nominal time.Duration // what it takes on the machine of docs/benchmarks.md
	done    int           // steps
	begin   time.Time
	took    time.Duration // 0 until it has ended
}

func newMeter(out *os.File) *meter {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &meter{out: out, terminal: err == nil, now: time.Now}
}

// plan adds a part of so many steps.
func (m *meter) plan(name string, steps int, nominal time.Duration) {
	m.parts = append(m.parts, &stage{name: name, steps: steps, nominal: nominal})
}

// enter begins a part that was planned.
func (m *meter) enter(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.parts {
		if p.name == name {
			m.part, p.begin = p, m.now()
		}
	}
	if !m.terminal {
		fmt.Fprintf(m.out, "bench: measuring %s\n", name)
		return
	}
	m.show()
}

// leave ends the part.
func (m *meter) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.part == nil {
		return
	}
	m.part.took = max(1, m.now().Sub(m.part.begin))
	m.part = nil
	if m.terminal {
		fmt.Fprint(m.out, "\r\x1b[K")
	}
}

// step notes that a step of the part is done.
func (m *meter) step() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.part == nil {
		return
	}
	m.part.done = min(m.part.done+1, m.part.steps)
	if m.terminal {
		m.show()
	}
}

// say prints a line.
func (m *meter) say(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.terminal {
		fmt.Fprint(m.out, "\r\x1b[K")
	}
	fmt.Fprintf(m.out, "bench: "+format+"\n", args...)
}

// show prints the line of the terminal. mu is held.
func (m *meter) show() {
	p := m.part
	fmt.Fprintf(m.out, "\r\x1b[Kbench: %s, %d of %d; %s left", p.name, p.done, p.steps, about(m.left()))
}

// left estimates how long the run will take. mu is held.
func (m *meter) left() (left time.Duration) {
	// pace is how long this machine takes, in times of what is nominal.
	var took, nominal time.Duration
	for _, p := range m.parts {
		switch {
		case p.took > 0:
			took, nominal = took+p.took, nominal+p.nominal
		case p == m.part && p.done > 0:
			took, nominal = took+m.now().Sub(p.begin), nominal+p.nominal*time.Duration(p.done)/time.Duration(p.steps)
		}
	}
	pace := 1.0
	if took > 0 && nominal > 0 {
		pace = took.Seconds() / nominal.Seconds()
	}
	for _, p := range m.parts {
		switch {
		case p == m.part && p.done > 0:
			left += m.now().Sub(p.begin) * time.Duration(p.steps-p.done) / time.Duration(p.done)
		case p.took == 0:
			left += time.Duration(float64(p.nominal) * pace)
		}
	}
	return left
}

// about returns a duration without more digits than it is good for.
func about(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
}
