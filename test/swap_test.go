// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// swapFiles are the group's files of swap; v1's count memory and swap together.
func (g *group) swapFiles() (limit, usage string) {
	if g.v2["memory"] {
		return filepath.Join(g.dirs["memory"], "memory.swap.max"), filepath.Join(g.dirs["memory"], "memory.swap.current")
	}
	return filepath.Join(g.dirs["memory"], "memory.memsw.limit_in_bytes"), filepath.Join(g.dirs["memory"], "memory.memsw.usage_in_bytes")
}

// TestSwapIsTheGroups needs a host with swap to say much: the guests have it.
func TestSwapIsTheGroups(t *testing.T) {
	dir, _ := serve(t)
	parent := newGroup(t)
	g := parent.child(t, "below")
	c := startContainer(t, "--mount", dir)
	g.adopt(t, c)
	host := meminfo(t, readFile(t, "/proc/meminfo"))["SwapTotal"]
	limit, usage := g.swapFiles()
	if _, err := os.Stat(limit); err != nil || host == 0 {
		// No swap, or a kernel that does not count it (swapaccount=0): none is
		// shown, for nobody knows how much of it is the container's.
		m := meminfo(t, c.sh(t, "cat /proc/meminfo"))
		if m["SwapTotal"] != 0 || m["SwapFree"] != 0 {
			t.Errorf("without swap: SwapTotal %d kB, SwapFree %d kB", m["SwapTotal"], m["SwapFree"])
		}
		return
	}

	// Shared memory that is no longer allowed to stay goes to swap. It is not of zeros:
	// newer kernels (seen on 7.3) need no swap for such pages.
	file, err := os.CreateTemp("/dev/shm", "vprocfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	c.sh(t, "head -c 30000000 /dev/urandom > "+file.Name())
	// In zswap, what cannot be compressed counts for the group as before (7.3).
	zswap := filepath.Join(g.dirs["memory"], "memory.zswap.max")
	if _, err := os.Stat(zswap); err == nil {
		write(t, zswap, "0")
	}
	g.limitMemory(t, 16)
	v2 := g.v2["memory"]
	used := func() uint64 {
		n := number(t, usage)
		if !v2 {
			n -= min(n, g.usage(t))
		}
		return n / 1024
	}
	waitFor(t, "memory to be swapped", func() bool { return used() > 4<<10 })

	// v1 limits memory and swap together, and takes no limit below what is used.
	limits, small := []uint64{0, 40, 20}, uint64(18)
	if !v2 {
		limits, small = []uint64{0, 60, 48}, 44
	}
	for _, mib := range limits {
		want := host
		if mib != 0 {
			want = min(host, mib<<10)
			write(t, limit, strconv.FormatUint(mib<<20, 10))
		}
		var m map[string]uint64
		var now uint64
		waitFor(t, "the swap usage to hold still", func() bool {
			before := used()
			m = meminfo(t, c.sh(t, "while read -r line; do echo \"$line\"; done < /proc/meminfo"))
			now = used()
			return before == now
		})
		if m["SwapTotal"] != want {
			t.Errorf("with a limit of %d MiB: SwapTotal %d kB, want %d kB", mib, m["SwapTotal"], want)
		}
		if m["SwapFree"] != want-min(want, now) {
			t.Errorf("SwapFree %d of %d kB, used are %d kB", m["SwapFree"], want, now)
		}
	}

	// A smaller limit above holds too.
	above, _ := parent.swapFiles()
	if !v2 {
		parent.limitMemory(t, int(small)) // not above the limit of both
	}
	write(t, above, strconv.FormatUint(small<<20, 10))
	if got, want := meminfo(t, c.sh(t, "cat /proc/meminfo"))["SwapTotal"], min(host, small<<10); got != want {
		t.Errorf("with a limit of %d MiB above: SwapTotal %d kB, want %d kB", small, got, want)
	}

	off, _ := serve(t, "--swap", "off")
	c = startContainer(t, "--mount", off)
	g.adopt(t, c)
	if m := meminfo(t, c.sh(t, "cat /proc/meminfo")); m["SwapTotal"] != 0 || m["SwapFree"] != 0 {
		t.Errorf("--swap=off: SwapTotal %d kB, SwapFree %d kB", m["SwapTotal"], m["SwapFree"])
	}
}
