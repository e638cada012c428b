// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// pressureFilesOf lists the pressure files that a process has open, the host's and
// those of control groups; a trigger is one more.
func pressureFilesOf(t *testing.T, pid int) (files []string) {
	t.Helper()
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is well formed
	for _, link := range links {
		if path, err := os.Readlink(link); err == nil && strings.Contains(path, "pressure") {
			files = append(files, path)
		}
	}
	return files
}

// TestSIGUSR2GivesTheHostsPressure, and triggers go with what is read.
func TestSIGUSR2GivesTheHostsPressure(t *testing.T) {
	needTriggers(t)
	d := startLXCFS(t)
	c := python(t, d.dir)
	own, host := v2Dir(t, c.init)+"/cpu.pressure", "/proc/pressure/cpu"
	// The host has waited for CPUs longer than any new container. One in the v2
	// root would have the host's pressure anyway.
	burnOn(t, v2Dir(t, c.init))
	waitFor(t, "pressure", func() bool { return stalls(t, readFile(t, own))["some"] > 0 })
	for i, file := range []string{own, host, own} {
		if i > 0 {
			d.cmd.Process.Signal(unix.SIGUSR2)
			if line := d.line(t); !strings.Contains(line, "virtualisation switched") {
				t.Fatalf("log: %s", line)
			}
		}
		before := stalls(t, readFile(t, file))["some"]
		shown := stalls(t, c.py(t, `print(open("/proc/pressure/cpu").read(), end="")`)+"\n")["some"]
		if after := stalls(t, readFile(t, file))["some"]; shown < before || shown > after {
			t.Errorf("after %d signals: %d us, %s says %d and then %d", i, shown, file, before, after)
		}
		// The trigger is kept, and outlives the next signal. What was read stays
		// open too.
		open := pressureFilesOf(t, d.worker(t))
		if got := c.py(t, fmt.Sprintf(`kept%d = setnew(b"some 1000 2000000\0"); print(kept%d[0])`, i, i)); got != "18" {
			t.Fatalf("after %d signals a trigger: %s", i, got)
		}
		now := pressureFilesOf(t, d.worker(t))
		if count(now, file) != count(open, file)+1 || len(now) != len(open)+1 {
			t.Errorf("after %d signals the daemon watches %q, before %q; want one more of %s", i, now, open, file)
		}
	}
	if got := c.py(t, `print([poll(k[1], 60000) for k in (kept0, kept1, kept2)])`); got != "[[2], [2], [2]]" {
		t.Errorf("the triggers: %s, want POLLPRI of each", got)
	}
	c.py(t, `[os.close(k[1]) for k in (kept0, kept1, kept2)]`)
	if log := d.stop(t); !strings.Contains(log, "pressure/cpu/switched-off:1") {
		t.Errorf("not counted:\n%s", log)
	}
}

func count(list []string, s string) (n int) {
	for _, e := range list {
		if e == s {
			n++
		}
	}
	return n
}

// TestSIGUSR2GivesTheHostsCPUs, in the directory too.
func TestSIGUSR2GivesTheHostsCPUs(t *testing.T) {
	all := testCPUs(t)
	d := startLXCFS(t, "--enable-cfs")
	c := startContainer(t, "--mount", d.dir, "--cpus", "0.5")
	host := cpuList(t, readFile(t, cpuDir+"/online"))
	for i, want := range [][]int{all[:1], host, all[:1]} {
		if i > 0 {
			d.cmd.Process.Signal(unix.SIGUSR2)
			if line := d.line(t); !strings.Contains(line, "virtualisation switched") {
				t.Fatalf("log: %s", line)
			}
		}
		if got := cpuList(t, c.sh(t, "cat "+cpuDir+"/online")); !slices.Equal(got, want) {
			t.Errorf("after %d signals online are %v, want %v", i, got, want)
		}
		if got := statCPUs(t, c.sh(t, "cat /proc/stat")); !slices.Equal(got, want) {
			t.Errorf("after %d signals rows of CPUs %v, want %v", i, got, want)
		}
	}
	d.stop(t)
}
