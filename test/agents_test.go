// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// exporter starts Prometheus's node_exporter in the container, with these collectors, and returns
// a command that prints its metrics.
func exporter(t *testing.T, c *container, port int, collectors ...string) (metrics string) {
	t.Helper()
	need(t, "prometheus-node-exporter", "prometheus-node-exporter")
	pid := strings.TrimSpace(c.sh(t, fmt.Sprintf("prometheus-node-exporter --collector.disable-defaults --collector.%s --web.listen-address=127.0.0.1:%d >/dev/null 2>&1 </dev/null & echo $!",
		strings.Join(collectors, " --collector."), port)))
	t.Cleanup(func() { c.sh(t, "kill "+pid) })
	metrics = fmt.Sprintf(`/usr/bin/python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:%d/metrics").read().decode())' 2>&1`, port)
	waitFor(t, "node_exporter to listen", func() bool {
		return strings.Contains(alone(t, c, metrics), fmt.Sprintf("node_scrape_collector_success{collector=%q} 1", collectors[0]))
	})
	return metrics
}

// psutil is a command that prints a value of the real psutil, with "p" for the module.
func psutil(value string) string {
	return fmt.Sprintf("/usr/bin/python3 -c 'import psutil as p; print(%s)'", value)
}

// TestAgentsShowTheCgroupsNumbers: memory, CPUs, CPU time and age, as atop, sar, node_exporter and
// psutil show them in a container.
func TestAgentsShowTheCgroupsNumbers(t *testing.T) {
	need(t, "atop", "atop")
	need(t, "sar", "sysstat")
	c := filledContainer(t)
	metrics := exporter(t, c, 19138, "meminfo", "cpu", "stat")
	age := func() float64 { return boottime(t) - startOf(t, c.init) }

	const total = 256 << 20
	page := float64(os.Getpagesize())
	for _, tt := range []struct {
		command, pattern string // of total, free and cache, or of free and cache
		unit             float64
	}{
		{psutil("*p.virtual_memory()"), `^(\d+) \d+ \S+ \d+ (\d+) \d+ \d+ \d+ (\d+) `, 1},
		{"LC_ALL=C atop -P MEM 1 1", `(?m)^MEM (?:\S+ ){6}(\d+) (\d+) (\d+) `, page},
		{metrics + " | grep ^node_memory | LC_ALL=C sort -r", `(?s)node_memory_MemTotal_bytes (\S+)\n.*node_memory_MemFree_bytes (\S+)\n.*node_memory_Cached_bytes (\S+)\n`, 1},
		{"LC_ALL=C sar -r 1 1", `(?m)^Average: +(\d+) +\d+ +\d+ +\S+ +\d+ +(\d+)`, 1 << 10},
	} {
		out := alone(t, c, tt.command)
		usage, file := memoryUsage(t, c)
		v := match(t, out, tt.pattern)
		if len(v) != 2 && v[0]*tt.unit != total {
			t.Errorf("%.60s: total %.0f, want %d", tt.command, v[0]*tt.unit, total)
		}
		about(t, fmt.Sprintf("%.60s: free", tt.command), v[len(v)-2]*tt.unit, total-usage, slack)
		about(t, fmt.Sprintf("%.60s: cache", tt.command), v[len(v)-1]*tt.unit, file, slack)
	}

	for command, pattern := range map[string]string{
		psutil("p.cpu_count()"):                                     `^(\d+)\n$`,
		"LC_ALL=C atop -P CPU 1 1":                                  `(?m)^CPU (?:\S+ ){6}(\d+) `,
		metrics + " | grep -c 'node_cpu_seconds_total.*mode=.idle'": `^(\d+)\n$`,
	} {
		if got := match(t, alone(t, c, command), pattern)[0]; got != 1 {
			t.Errorf("%.60s: %v CPUs, want 1", command, got)
		}
	}
	for _, tt := range []struct {
		command, pattern string // of user and system time
		unit             float64
	}{
		{psutil("*p.cpu_times()"), `^([\d.]+) \S+ ([\d.]+) `, 1},
		{"LC_ALL=C atop -P CPU 1 1", `(?m)^CPU (?:\S+ ){7}(\d+) (\d+) `, 1. / ticks},
		{metrics, `(?s)mode="system"} ([\d.e+]+)\n.*mode="user"} ([\d.e+]+)\n`, 1},
	} {
		before := cpuUsage(t, c.init)
		v := match(t, alone(t, c, tt.command), tt.pattern)
		after := cpuUsage(t, c.init)
		if busy := (v[0] + v[1]) * tt.unit; busy < before-0.15 || busy > after+0.03 {
			t.Errorf("%.60s: busy for %.2f s, the cgroup used %.2f to %.2f s", tt.command, busy, before, after)
		}
	}
	now := func() float64 { return float64(time.Now().UnixNano()) / 1e9 }
	for command, pattern := range map[string]string{
		psutil("p.boot_time()"): `^([\d.]+)\n$`,
		metrics:                 `(?m)^node_boot_time_seconds (\S+)$`,
	} {
		// btime is the host's, as the start times of processes are.
		about(t, fmt.Sprintf("%.60s: boot time", command), match(t, alone(t, c, command), pattern)[0], now()-boottime(t), 2.1)
	}
	started := match(t, alone(t, c, psutil("p.Process(1).create_time()")), `^([\d.]+)\n$`)[0]
	about(t, "psutil: start of pid 1", started, now()-age(), 1.6)

	loop := strings.TrimSpace(c.sh(t, "(while :; do :; done) & echo $!"))
	before, began := cpuUsage(t, c.init), time.Now()
	out := alone(t, c, "LC_ALL=C sar -u 3 1")
	used := cpuUsage(t, c.init) - before
	about(t, "sar -u: idle beside a busy loop", match(t, out, `(?m)^Average: +all .* ([\d.]+)$`)[0], 100*(1-used/time.Since(began).Seconds()), 15)
	c.sh(t, "kill "+loop)
}

// TestHtopShowsTheCgroupsMemory reads the meter on the screen.
func TestHtopShowsTheCgroupsMemory(t *testing.T) {
	need(t, "htop", "htop")
	s := onTerminal(t, "vprocfs", "run", "--memory", "256M", "--cpus", "1", "--", "sh", "-c",
		"x=$(head -c 50000000 /dev/zero | tr '\\0' x); TERM=linux LC_ALL=C htop --no-color -d 5")
	screen := s.expect(t, "/256M")
	v := match(t, screen, `([\d.]+)M$`)
	init := children(s.cmd.Process.Pid)
	if len(init) != 1 {
		t.Fatalf("vprocfs run has the children %v", init)
	}
	usage := cgroupNumber(t, init[0], "memory", "memory.usage_in_bytes", "memory.current")
	_, stat := memoryStat(t, init[0])
	used := float64(usage-stat["file"]) / (1 << 20)
	if used < 45 {
		t.Fatalf("the cgroup uses %s MiB without its page cache: too little to tell", strconv.FormatFloat(used, 'f', 1, 64))
	}
	about(t, "htop: memory used, in MiB", v[0], used, 12)
	s.send(t, "q")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%v; the terminal has %q", err, s.rest())
	}
}
