// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/procfs/blockdevice"
	"golang.org/x/sys/unix"
)

// The files beside uptime, meminfo and stat, in real containers.

// processors returns the numbers of the CPUs in the text of cpuinfo (x86, arm64,
// ppc64), or of those in stat.
func processors(text string) (cpus []string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 3 && f[0] == "processor" && f[1] == ":":
			cpus = append(cpus, f[2])
		case len(f) > 4 && strings.HasPrefix(f[0], "cpu") && f[0] != "cpu" && !strings.Contains(line, ":"):
			cpus = append(cpus, f[0][len("cpu"):])
		}
	}
	return cpus
}

func TestCPUInfoAndStatShowTheSameCPUs(t *testing.T) {
	last := fmt.Sprint(hostCPUs(t) - 1)
	for _, tt := range []struct {
		flags []string
		want  string // empty: the host's
	}{
		{[]string{"--cpus", "1"}, "0"},
		{[]string{"--cpus", "0.5"}, "0"},
		{[]string{"--cpuset", last}, last}, // by its own number: pinning works
		{nil, ""},
	} {
		c := startContainer(t, tt.flags...)
		want := []string{tt.want}
		if tt.want == "" {
			want = processors(readFile(t, "/proc/cpuinfo"))
		}
		for _, name := range []string{"cpuinfo", "stat"} {
			if got := processors(c.sh(t, "cat /proc/"+name)); !slices.Equal(got, want) {
				t.Errorf("%v: %s shows the CPUs %v, want %v", tt.flags, name, got, want)
			}
		}
		// the rest of the block, to its end
		text, host := c.sh(t, "cat /proc/cpuinfo"), readFile(t, "/proc/cpuinfo")
		if per := strings.Count(host, "\n") / hostCPUs(t); strings.Count(text, "\n") != per*len(want) || !strings.HasSuffix(text, "\n\n") {
			t.Errorf("%v: %d lines of %d a CPU, ending %q", tt.flags, strings.Count(text, "\n"), per, text[max(0, len(text)-40):])
		}
	}
}

func TestSwapsIsMeminfosSwap(t *testing.T) {
	c := startContainer(t, "--memory", "64M")
	mem := meminfo(t, c.sh(t, "cat /proc/meminfo"))
	swaps, err := oracle(t, c).Swaps()
	if err != nil {
		t.Fatal(err)
	}
	var size uint64
	for _, s := range swaps {
		size += uint64(s.Size)
	}
	if size != mem["SwapTotal"] || len(swaps) > 1 {
		t.Errorf("%d lines with %d kB, meminfo has %d kB", len(swaps), size, mem["SwapTotal"])
	}
	head, _, _ := strings.Cut(c.sh(t, "cat /proc/swaps"), "\n")
	if want, _, _ := strings.Cut(readFile(t, "/proc/swaps"), "\n"); head != want {
		t.Errorf("the heading is %q, the host's %q", head, want)
	}
}

// diskDir is a directory for a test whose files are on a disk, and not in memory.
func diskDir(t testing.TB) string {
	t.Helper()
	for _, parent := range []string{os.TempDir(), "/var/tmp", "/"} {
		var st unix.Stat_t
		if err := unix.Stat(parent, &st); err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(parent, "vprocfs-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	t.Fatal("no directory is on a disk")
	return ""
}

// throttleDisks makes v1 count the container's I/O, which it only does while a
// disk is throttled somewhere: far above what it can do.
func throttleDisks(t testing.TB, c *container) {
	t.Helper()
	if _, v2 := cgroupDir(t, c.init, "blkio"); v2 {
		return
	}
	dir, _ := c.ownCgroup(t, "blkio")
	for _, d := range hostDisks(t) {
		rule := fmt.Sprintf("%d:%d %d", d.MajorNumber, d.MinorNumber, uint64(1)<<40)
		if _, err := os.Stat("/sys/block/" + d.DeviceName); err != nil || d.WriteIOs+d.ReadIOs == 0 {
			continue
		}
		write(t, filepath.Join(dir, "blkio.throttle.write_bps_device"), rule)
	}
}

func hostDisks(t testing.TB) []blockdevice.Diskstats {
	t.Helper()
	blocks, err := blockdevice.NewFS("/proc", "/sys")
	if err != nil {
		t.Fatal(err)
	}
	disks, err := blocks.ProcDiskstats()
	if err != nil {
		t.Fatal(err)
	}
	return disks
}

// TestDiskstatsIsWhatTheControlGroupCounts writes to a disk in a container.
func TestDiskstatsIsWhatTheControlGroupCounts(t *testing.T) {
	c := startContainer(t)
	dir, v2 := c.ownCgroup(t, "blkio")
	file := filepath.Join(diskDir(t), "data")
	throttleDisks(t, c)
	disks := hostDisks(t)
	c.sh(t, "dd if=/dev/zero of="+file+" bs=64k count=64 oflag=direct 2>&1; sync -f "+file)
	// What it counts goes on a little after the sync: both are read until they agree.
	var want, got string
	written := uint64(0)
	waitFor(t, "diskstats to show what the control group counts", func() bool {
		want, written = "", 0
		for _, d := range disks {
			counted := groupIO(t, dir, v2, fmt.Sprintf("%d:%d", d.MajorNumber, d.MinorNumber))
			if counted != [4]uint64{} {
				want += fmt.Sprintln(d.DeviceName, counted)
			}
			written += counted[3]
		}
		got = ""
		for line := range strings.Lines(c.sh(t, "cat /proc/diskstats")) {
			f := strings.Fields(line)
			got += fmt.Sprintf("%s [%s %s %s %s]\n", f[2], f[3], f[5], f[7], f[9])
		}
		return got == want
	})
	if written < 64*64<<10/512 {
		t.Errorf("%d sectors written, want at least %d", written, 64*64<<10/512)
	}
	t.Logf("reads, sectors, writes, sectors: %s", strings.ReplaceAll(got, "\n", " "))
}

// groupIO reads what a control group counts of a device: reads, sectors read,
// writes, sectors written.
func groupIO(t testing.TB, dir string, v2 bool, device string) (io [4]uint64) {
	t.Helper()
	if v2 {
		for line := range strings.Lines(readFile(t, filepath.Join(dir, "io.stat"))) {
			var r, w, rios, wios uint64
			if _, err := fmt.Sscanf(line, device+" rbytes=%d wbytes=%d rios=%d wios=%d", &r, &w, &rios, &wios); err == nil {
				return [4]uint64{rios, r / 512, wios, w / 512}
			}
		}
		return io
	}
	for i, name := range []string{"io_serviced", "io_service_bytes"} {
		for line := range strings.Lines(readFile(t, filepath.Join(dir, "blkio.throttle."+name+"_recursive"))) {
			for j, op := range []string{"Read", "Write"} {
				var n uint64
				if _, err := fmt.Sscanf(line, device+" "+op+" %d", &n); err == nil {
					io[i+2*j] = n / []uint64{1, 512}[i]
				}
			}
		}
	}
	return io
}

func TestSlabinfoIsEmptyAndRootsOnly(t *testing.T) {
	c := startContainer(t)
	if text := c.sh(t, "cat /proc/slabinfo"); strings.Count(text, "\n") != 2 || !strings.HasPrefix(text, "slabinfo - version: 2.1\n# name ") {
		t.Errorf("%q", text)
	}
	if text := readFile(t, "/proc/slabinfo"); !strings.HasPrefix(text, c.sh(t, "cat /proc/slabinfo")) {
		t.Errorf("the host's begins %.300q", text)
	}
	if text := c.sh(t, "stat -c '%a %u %g' /proc/slabinfo; setpriv --reuid 1234 --regid 1234 --clear-groups cat /proc/slabinfo 2>&1"); text != "400 0 0\ncat: /proc/slabinfo: Permission denied\n" {
		t.Errorf("%q", text)
	}
}
