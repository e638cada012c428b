// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// flipReads is how often each file with counters is read: 10,000 times, and in a
// guest, where a read takes ten times as long, 10,000 times altogether.
func flipReads() int {
	if os.Getenv(binaryEnv) != "" {
		return 10_000/len(countingFiles()) + 1
	}
	return 10_000
}

// TestNoCounterGoesBackWhileLimitsFlip changes quota, cpuset and memory limit at
// random while a reader in the container compares each content with the one
// before.
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
	if g.unified != "" {
		for _, dir := range []string{filepath.Dir(parent.unified), parent.unified} {
			write(t, filepath.Join(dir, "cgroup.subtree_control"), "+io")
		}
	}
	// The first line comes when the container is in its group.
	reader := toolCommand(t, "watch", strconv.Itoa(flipReads()), filepath.Join(diskDir(t), "file"))
	c := startCommand(t, []string{"--mount", dir}, append([]string{"sh", "-c", `read go; exec "$@"`, "sh"}, reader...)...)
	g.adopt(t, c)
	throttleDisks(t, c)
	if got := c.answer(t, "go", "ready"); got != "" {
		t.Fatalf("the reader says %q", got)
	}

	seen := make(chan string)
	go func() {
		for {
			line, err := c.out.ReadString('\n')
			if err == nil {
				seen <- strings.TrimSuffix(line, "\n")
				continue
			}
			if err != io.EOF {
				seen <- fmt.Sprintf("read what the reader has seen: %v", err)
			}
			close(seen)
			return
		}
	}()
	cpus := testCPUs(t)
	said := make(map[string][]string)
	flips := 0
	for reads := true; reads; flips++ {
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
		case line, ok := <-seen:
			what, rest, _ := strings.Cut(line, ": ")
			if said[what] = append(said[what], rest); what == "progress" {
				t.Logf("%d flips, %s", flips, rest)
			}
			reads = ok
		case <-time.After(time.Duration(random.IntN(100)) * time.Millisecond):
		}
	}
	views, sizes := strings.Split(strings.Join(said["CPUs"], ""), ";"), strings.Split(strings.Join(said["memory"], ""), ";")
	t.Logf("%d flips, %d sets of CPUs, %d sizes of memory, counters that moved: %s", flips, len(views), len(sizes), said["moved"])
	if len(said["done"]) != 1 {
		t.Fatalf("the reader did not come to its end; what it found is above, or here: %v", said)
	}
	if flips < 100 || len(sizes) < 10 || len(cpus) > 1 && len(views) < 2 {
		t.Errorf("%d flips, which showed as CPUs %q and memory %q: too few to tell", flips, views, sizes)
	}
	for _, name := range []string{"uptime", "stat", "diskstats"} {
		if !strings.Contains(said["moved"][0], name+" ") {
			t.Errorf("no counter of %s has moved: %s", name, said["moved"])
		}
	}
}
