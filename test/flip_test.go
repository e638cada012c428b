package test

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestNoCounterGoesBackWhileLimitsFlip changes quota, cpuset and memory limit at
// random while a reader in the container compares each content with the one
// before: 5,000 each of uptime and stat.
func TestNoCounterGoesBackWhileLimitsFlip(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir, _ := serve(t)
	parent := newGroup(t)
	// While any group has a quota the kernel need not patch its own code at each
	// first and last one (cfs_bandwidth_used, kernel/sched/fair.c): that is slow,
	// and QEMU without KVM crashes a guest that does it often.
	parent.child(t, "holder").limitCPU(t, 100)
	g := parent.child(t, "flipped")
	// A busy loop keeps the counters moving. An idle one (sched(7)) does not
	// keep the reader and the daemon waiting for its slices of CPU time.
	script := `read go; chrt --idle 0 sh -c 'while :; do :; done' & exec "$@"`
	c := startCommand(t, []string{"--mount", dir}, append([]string{"sh", "-c", script, "sh"}, toolCommand(t, "watch", "5000")...)...)
	g.adopt(t, c)
	if got := c.answer(t, "go", "ready"); got != "" {
		t.Fatalf("the reader says %q", got)
	}

	done := make(chan string)
	go func() {
		cpus, _ := c.out.ReadString('\n')
		sizes, _ := c.out.ReadString('\n')
		done <- cpus + sizes
	}()
	cpus := testCPUs(t)
	var seen string
	flips := 0
	for ; seen == ""; flips++ {
		switch random.IntN(3) {
		case 0:
			g.limitCPU(t, random.IntN(len(cpus)+1)*100) // 0 is none
		case 1:
			var some []string
			for _, i := range random.Perm(len(cpus))[:1+random.IntN(len(cpus))] {
				some = append(some, strconv.Itoa(cpus[i]))
			}
			g.limitCPUs(t, strings.Join(some, ","))
		case 2:
			g.limitMemory(t, 128+random.IntN(128)) // more than it uses
		}
		select {
		case seen = <-done:
		case <-time.After(time.Duration(random.IntN(20)) * time.Millisecond):
		}
	}
	lines := strings.Split(seen, "\n")
	if len(lines) != 3 {
		t.Fatalf("the reader found something: see above")
	}
	views, sizes := strings.Split(lines[0], ";"), strings.Split(lines[1], ";")
	t.Logf("%d flips, %d sets of CPUs, %d sizes of memory", flips, len(views), len(sizes))
	if flips < 100 || len(sizes) < 10 || len(cpus) > 1 && len(views) < 2 {
		t.Errorf("%d flips, which showed as CPUs %q and memory %q: too few to tell", flips, views, sizes)
	}
}
