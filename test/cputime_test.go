// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// reading is a /proc/stat of a container, with what its cgroup had used and how
// old it was just before and just after, in seconds.
type reading struct {
	stat         string
	used, usedBy float64 // at least, at most
	age, ageBy   float64
}

// readStat reads quickly, as far as a busy machine lets it: of some tries it
// returns the one with the least CPU time between the looks at the cgroup.
func readStat(t *testing.T, c *container, width float64) reading {
	t.Helper()
	start := startOf(t, c.init)
	var best reading
	for i := range 50 {
		var r reading
		r.used, r.age = cpuUsage(t, c.init), boottime(t)-start
		r.stat = c.answer(t, "", ".")
		r.ageBy, r.usedBy = boottime(t)-start, cpuUsage(t, c.init)
		if i == 0 || r.usedBy-r.used < best.usedBy-best.used {
			best = r
		}
		if best.usedBy-best.used < width {
			break
		}
	}
	return best
}

// statRow returns the first four counters of a row, user, nice, system, and
// idle, in ticks.
func statRow(t *testing.T, stat, name string) (v []float64) {
	t.Helper()
	for line := range strings.Lines(stat) {
		if f, rest, _ := strings.Cut(line, " "); f == name {
			return floats(t, rest)[:4]
		}
	}
	t.Fatalf("no row %s in\n%s", name, stat)
	return nil
}

// TestBusyTimeIsTheCgroups burns CPU on all that the container sees. What it sees
// is two readings, window apart, whose difference must be the cgroup's.
//
//   - Each of user and system is cut to a whole tick, so a difference of their
//     sums can be off by two ticks, whatever the number of CPUs.
//   - The cgroup's usage is read before and after each reading: where between the
//     two the file was made is not known.
//   - One per cent for time carried over from one read to the next (VIEW, stat):
//     a quota is a budget for a period of 100 ms, and not a bound at any moment.
func TestBusyTimeIsTheCgroups(t *testing.T) {
	const window = 5 * time.Second
	for _, cpus := range []int{1, 2, 4} {
		if cpus > hostCPUs(t) {
			t.Logf("no run with %d CPUs: the host has %d", cpus, hostCPUs(t))
			break
		}
		t.Run(fmt.Sprintf("%d CPUs", cpus), func(t *testing.T) {
			c := startCommand(t, []string{"--cpus", strconv.Itoa(cpus)}, beside(cpus, toolCommand(t, "reread", "/proc/stat"))...)
			width := 0.0025 * window.Seconds() * float64(cpus)
			// The first content settles what was used before it, by an init
			// that had more CPUs than are shown.
			c.answer(t, "", ".")
			sleep(1000)
			a := readStat(t, c, width)
			time.Sleep(window)
			b := readStat(t, c, width)
			// A busy machine gives little in the window: then it is a longer one.
			for more := 0; b.used-a.usedBy < 2; more++ {
				if more == 10 {
					t.Fatalf("the container got %.2f s of CPU time in %d times %s: too little to tell", b.used-a.usedBy, 1+more, window)
				}
				time.Sleep(window)
				b = readStat(t, c, width)
			}

			busy := func(stat string) float64 {
				v := statRow(t, stat, "cpu")
				return (v[0] + v[1] + v[2]) / ticks
			}
			got := busy(b.stat) - busy(a.stat)
			least, most := 0.99*(b.used-a.usedBy)-2.0/ticks, 1.01*(b.usedBy-a.used)+2.0/ticks
			if got < least || got > most {
				t.Errorf("busy grew by %.2f s, want %.3f to %.3f s", got, least, most)
			}
			t.Logf("busy grew by %.2f s, the cgroup used %.3f to %.3f s", got, b.used-a.usedBy, b.usedBy-a.used)

			visible := statCPUs(t, b.stat)
			if len(visible) != cpus {
				t.Errorf("rows of CPUs %v, want %d", visible, cpus)
			}
			for _, cpu := range visible {
				checkRowAge(t, a, cpu)
				checkRowAge(t, b, cpu)
			}
		})
	}
}

// beside makes a command that runs beside n busy loops.
func beside(n int, command []string) []string {
	loops := fmt.Sprintf(`for i in $(seq %d); do while :; do :; done & done; exec "$@"`, n)
	return append([]string{"sh", "-c", loops, "sh"}, command...)
}

// checkRowAge compares a row's whole time with the container's age, to two ticks:
// user, system, and idle are each cut to whole ticks. The third tick is of the
// age, which starts at a whole tick.
func checkRowAge(t *testing.T, r reading, cpu int) {
	t.Helper()
	sum := 0.0
	for _, v := range statRow(t, r.stat, fmt.Sprintf("cpu%d", cpu)) {
		sum += v
	}
	if sum < r.age*ticks-3 || sum > r.ageBy*ticks+1 {
		t.Errorf("the row of CPU %d is %.0f ticks long, the container %.1f to %.1f ticks old", cpu, sum, r.age*ticks, r.ageBy*ticks)
	}
}
