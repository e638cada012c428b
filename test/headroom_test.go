// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// near reports whether two numbers of kB are the same but for what the reading itself
// and the kernel's batches of pages (64 on each CPU) make of them.
func near(a, b uint64) bool { return max(a, b)-min(a, b) <= 4<<10 }

// hold has a container use so many MiB of shared memory, and 30 of page cache.
func hold(t testing.TB, c *container, mib int) {
	t.Helper()
	file, err := os.CreateTemp("/dev/shm", "vprocfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() { os.Remove(file.Name()) })
	c.sh(t, fmt.Sprintf("head -c %dM /dev/zero > %s; head -c 30M /dev/zero > %s", mib, file.Name(), filepath.Join(t.TempDir(), "file")))
}

// TestASidecarsMemoryIsNotFree has a container without a limit in a group with one, of
// which another container uses the most.
func TestASidecarsMemoryIsNotFree(t *testing.T) {
	const limit = 256
	dir, _ := serve(t)
	pod := newGroup(t)
	pod.limitMemory(t, limit)
	own, beside := pod.child(t, "app"), pod.child(t, "sidecar")
	// Containers end before the groups that they are in.
	app, sidecar := startContainer(t, "--mount", dir), startContainer(t, "--mount", dir)
	own.adopt(t, app)
	beside.adopt(t, sidecar)
	hold(t, sidecar, 100)
	m := meminfo(t, app.sh(t, "cat /proc/meminfo"))
	free := limit<<10 - pod.usage(t)>>10
	if m["MemTotal"] != limit<<10 || !near(m["MemFree"], free) || free > (limit-95)<<10 {
		t.Errorf("MemTotal %d kB, MemFree %d kB, the limit leaves %d kB of %d MiB", m["MemTotal"], m["MemFree"], free, limit)
	}
	stat := readFile(t, filepath.Join(pod.dirs["memory"], "memory.stat"))
	cached := uint64(0)
	for _, key := range []string{"active_file ", "inactive_file ", "slab_reclaimable "} {
		if !pod.v2["memory"] {
			key = "total_" + key
		}
		if _, after, ok := strings.Cut("\n"+stat, "\n"+key); ok {
			value, _, _ := strings.Cut(after, "\n")
			cached += uint64(parseInt(t, value)) >> 10
		}
	}
	if !near(m["MemAvailable"], free+cached) {
		t.Errorf("MemAvailable %d kB, want %d kB, of which %d kB can be reclaimed", m["MemAvailable"], free+cached, cached)
	}
	var files unix.Statfs_t
	if err := unix.Statfs(t.TempDir(), &files); err != nil {
		t.Fatal(err)
	}
	// In guests the file is in a tmpfs, which is no page cache that can be reclaimed.
	if files.Type != unix.TMPFS_MAGIC && files.Type != unix.RAMFS_MAGIC && cached < 25<<10 {
		t.Errorf("%d kB of page cache, want 30 MiB", cached)
	}
	if used := own.usage(t) >> 10; m["AnonPages"]+m["Cached"] > used+4<<10 {
		t.Errorf("%d kB anonymous and %d kB cached of %d kB: the sidecar's are among them", m["AnonPages"], m["Cached"], used)
	}
	// The container's own limit leaves less.
	own.limitMemory(t, 64)
	m = meminfo(t, app.sh(t, "cat /proc/meminfo"))
	if free := 64<<10 - own.usage(t)>>10; m["MemTotal"] != 64<<10 || !near(m["MemFree"], free) {
		t.Errorf("MemTotal %d kB, MemFree %d kB, its own limit leaves %d kB of 64 MiB", m["MemTotal"], m["MemFree"], free)
	}
}

// TestAnAncestorsUsageIsNobodysOwn has a process in a group without the memory
// controller, beside another that uses memory.
func TestAnAncestorsUsageIsNobodysOwn(t *testing.T) {
	dir, _ := serve(t)
	parent := newGroup(t)
	leaf := parent.child(t, "leaf", "cpu", "cpuacct", "cpuset")
	if !leaf.v2["memory"] {
		t.Skip("not run: every group of a v1 hierarchy has its controller; the v2 guests of make test-vm-gate run it (AnAncestors)")
	}
	beside := parent.child(t, "other", "cpu", "cpuacct", "cpuset")
	c, other := startContainer(t, "--mount", dir), startContainer(t, "--mount", dir)
	leaf.adopt(t, c)
	beside.adopt(t, other)
	hold(t, other, 50)
	limited := func() map[string]uint64 { return meminfo(t, c.sh(t, "cat /proc/meminfo")) }
	parent.limitMemory(t, 128)
	m := limited()
	if free := 128<<10 - parent.usage(t)>>10; m["MemTotal"] != 128<<10 || !near(m["MemFree"], free) {
		t.Errorf("MemTotal %d kB, MemFree %d kB: the limit above leaves %d kB of 128 MiB", m["MemTotal"], m["MemFree"], free)
	}
	for _, label := range []string{"AnonPages", "Cached", "Active", "Inactive", "Slab", "Committed_AS"} {
		if m[label] != 0 {
			t.Errorf("%s is %d kB, which nobody counted", label, m[label])
		}
	}
	write(t, filepath.Join(parent.dirs["memory"], "memory.max"), "max")
	if got, host := limited(), meminfo(t, readFile(t, "/proc/meminfo")); got["MemTotal"] != host["MemTotal"] || got["Cached"] == 0 {
		t.Errorf("nothing is known of the group, and this is not the host's: %v", got)
	}
}

func TestCommitLimitIsTheContainers(t *testing.T) {
	c := startContainer(t, "--memory", "256M")
	m := meminfo(t, c.sh(t, "cat /proc/meminfo"))
	ratio := uint64(parseInt(t, strings.TrimSpace(readFile(t, "/proc/sys/vm/overcommit_ratio"))))
	want := 256<<10*ratio/100 + m["SwapTotal"]
	if kb := parseInt(t, strings.TrimSpace(readFile(t, "/proc/sys/vm/overcommit_kbytes"))); kb != 0 {
		want = uint64(kb) + m["SwapTotal"]
	}
	if !near(m["CommitLimit"], want) || m["Committed_AS"] > 256<<10 || m["Committed_AS"] < m["AnonPages"] {
		t.Errorf("CommitLimit %d kB, want %d; Committed_AS %d kB with %d kB anonymous", m["CommitLimit"], want, m["Committed_AS"], m["AnonPages"])
	}
	if sum := m["DirectMap4k"] + m["DirectMap2M"] + m["DirectMap4M"] + m["DirectMap1G"]; sum > 256<<10 {
		t.Errorf("%d kB are mapped of 256 MiB", sum)
	}
}
