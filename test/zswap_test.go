// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// kilobytes parses a number of bytes.
func kilobytes(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n / 1024
}

// TestZswapIsTheGroups needs a host with cgroup v2, swap and zswap to say much. Of the
// guests that is the one of Debian's backports kernel; the others are built without
// zswap. There no zswap is counted for a group, and none is shown.
func TestZswapIsTheGroups(t *testing.T) {
	on, _ := serve(t)
	off, _ := serve(t, "--zswap", "off")
	g := newGroup(t).child(t, "below")
	c := startContainer(t, "--mount", on)
	d := startContainer(t, "--mount", off)
	g.adopt(t, c)
	g.adopt(t, d)
	read := func(c *container) map[string]uint64 {
		return meminfo(t, c.sh(t, "while read -r line; do echo \"$line\"; done < /proc/meminfo"))
	}
	counted := func() (compressed, stored uint64) {
		for line := range strings.Lines(readFile(t, filepath.Join(g.dirs["memory"], "memory.stat"))) {
			f := strings.Fields(line)
			switch f[0] {
			case "zswap":
				compressed = kilobytes(t, f[1])
			case "zswapped":
				stored = kilobytes(t, f[1])
			}
		}
		return compressed, stored
	}

	host := meminfo(t, readFile(t, "/proc/meminfo"))
	enabled, _ := os.ReadFile("/sys/module/zswap/parameters/enabled") // no such module: not enabled
	if g.v2["memory"] && host["SwapTotal"] > 0 && strings.HasPrefix(string(enabled), "Y") {
		file, err := os.CreateTemp("/dev/shm", "vprocfs-test-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		defer file.Close()
		// 32 MiB of pages that are half random, so that they neither vanish nor are refused.
		c.sh(t, "a="+file.Name()+"; { head -c 2048 /dev/urandom; head -c 2048 /dev/zero; } > $a; "+
			"for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do cat $a $a > $a.2; mv $a.2 $a; done")
		// Over memory.high memory goes to swap, and nobody is killed.
		write(t, filepath.Join(g.dirs["memory"], "memory.high"), "16M")
		waitFor(t, "memory to go to zswap", func() bool { _, stored := counted(); return stored > 1<<10 })
	}
	var m map[string]uint64
	var compressed, stored uint64
	waitFor(t, "zswap to hold still", func() bool {
		beforeCompressed, beforeStored := counted()
		m = read(c)
		compressed, stored = counted()
		return beforeCompressed == compressed && beforeStored == stored
	})
	if m["Zswap"] != compressed || m["Zswapped"] != stored {
		t.Errorf("Zswap %d kB, Zswapped %d kB, the group has %d and %d kB", m["Zswap"], m["Zswapped"], compressed, stored)
	}
	_, want := host["Zswap"]
	if _, got := m["Zswap"]; got != want {
		t.Errorf("a line Zswap: %t, on the host: %t", got, want)
	}
	if m := read(d); m["Zswap"] != 0 || m["Zswapped"] != 0 {
		t.Errorf("--zswap=off: Zswap %d kB, Zswapped %d kB", m["Zswap"], m["Zswapped"])
	}
}
