// SPDX-License-Identifier: Apache-2.0

package test

import (
	"regexp"
	"strings"
	"testing"
)

// match returns what the groups of a pattern match in text, as numbers.
func match(t *testing.T, text, pattern string) []float64 {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no match for %s in:\n%s", pattern, text)
	}
	return floats(t, strings.Join(m[1:], " "))
}

func TestFreeShowsTheContainersMemory(t *testing.T) {
	out := inContainer(t, smallContainer(), "free", "-m")
	v := match(t, out, `(?m)^Mem: +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$`)
	total, used, free, available := v[0], v[1], v[2], v[5]
	if total != 256 || used > 30 || free < 200 || free > total || available < free-1 || available > total {
		t.Errorf("free -m of an empty container of 256 MiB:\n%s", out)
	}
}

func TestUptimeCommandShowsTheContainersAge(t *testing.T) {
	if out := inContainer(t, smallContainer(), "uptime"); !strings.Contains(out, " up 0 min,") {
		t.Errorf("uptime of a container that is seconds old: %s", out)
	}
	if host := readFile(t, "/proc/uptime"); floats(t, host)[0] < 120 {
		t.Logf("the host has been up for %s only: its uptime looks the same", host)
	}
}

func TestTopShowsTheContainer(t *testing.T) {
	out := inContainer(t, smallContainer(), "sh", "-c", "LC_ALL=C TERM=dumb top -b -n1")
	if total := match(t, out, `MiB Mem : +([\d.]+) total`)[0]; total != 256 {
		t.Errorf("memory %v MiB", total)
	}
	if !strings.Contains(out, "up 0 min,") {
		t.Errorf("uptime is not the container's")
	}
	// Its init, sh, top.
	if tasks := match(t, out, `Tasks: +(\d+) total`)[0]; tasks > 4 {
		t.Errorf("%v tasks", tasks)
	}
	cpu := match(t, out, `%Cpu\(s\): *([\d.]+) us, *([\d.]+) sy, *([\d.]+) ni, *([\d.]+) id, *([\d.]+) wa, *([\d.]+) hi, *([\d.]+) si, *([\d.]+) st`)
	sum := 0.0
	for _, v := range cpu {
		sum += v
	}
	if sum < 99 || sum > 101 {
		t.Errorf("CPU states sum to %.1f %%", sum)
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestTopShowsABusyContainerAsBusy(t *testing.T) {
	// The second screen is of the time between the two: one busy loop on one CPU
	// that is the container's. How much of it a loaded machine gives is not ours.
	out := inContainer(t, smallContainer(), "sh", "-c",
		"(while :; do :; done) & LC_ALL=C TERM=dumb top -b -n2 -d2 | grep '^%Cpu' | tail -1; kill $!")
	if idle := match(t, out, `([\d.]+) id,`)[0]; idle > 90 {
		t.Errorf("idle %.1f %% beside a busy loop: %s", idle, out)
	}
}

func TestVmstatShowsTheContainer(t *testing.T) {
	out := inContainer(t, smallContainer(), "vmstat")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	// r b swpd free buff cache si so bi bo in cs us sy id wa st
	v := floats(t, lines[len(lines)-1])
	if len(v) < 16 || v[3] > 256<<10 || v[3] < 200<<10 || v[4] != 0 || v[12]+v[13]+v[14] < 99 {
		t.Errorf("vmstat of an empty container of 256 MiB:\n%s", out)
	}
}
