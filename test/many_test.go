// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crowdOfContainers is many containers: shells that are the inits of pid namespaces, each in a group of
// its own. They share all else with the host.
type crowdOfContainers struct {
	pids []int
	ins  []io.Writer
}

// startMany starts n containers that read the files of the view at dir whenever tick is
// called.
func startMany(t testing.TB, dir string, n int) *crowdOfContainers {
	t.Helper()
	base := newGroup(t)
	c := new(crowdOfContainers)
	for i := range n {
		g := base.child(t, "c"+strconv.Itoa(i))
		g.limitMemory(t, 64+i)
		read := fmt.Sprintf("read y <%[1]s/proc/uptime; read y <%[1]s/proc/meminfo; read y <%[1]s/proc/loadavg", dir)
		cmd := exec.Command("sh", "-c", g.enter()+" && while read x; do "+read+"; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // an error says that it has ended
			_ = cmd.Wait()
		})
		c.pids, c.ins = append(c.pids, cmd.Process.Pid), append(c.ins, in)
	}
	c.tick(t)
	waitFor(t, "all containers to be known", func() bool {
		known := 0
		for _, r := range listed(t, dir) {
			if slices.Contains(c.pids, r.Init) && r.Reads > 0 {
				known++
			}
		}
		return known == n
	})
	return c
}

// tick has each container read.
func (c *crowdOfContainers) tick(t testing.TB) {
	for i, in := range c.ins {
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatalf("container %d: %v", i, err)
		}
	}
}

// keepReading has all containers read once a second, until the test ends.
func (c *crowdOfContainers) keepReading(t testing.TB) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
				for _, in := range c.ins {
					_, _ = io.WriteString(in, "\n") // one that has ended
				}
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
	})
}

// startHammer has a container read without a pause from now on.
func startHammer(t testing.TB, dir string) (init int) {
	t.Helper()
	g := newGroup(t)
	cmd := exec.Command("sh", "-c", g.enter()+" && while :; do read y <"+dir+"/proc/uptime; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// TestPSNamesTheCulpritAmong300Containers first, in one command, as a person would look.
func TestPSNamesTheCulpritAmong300Containers(t *testing.T) {
	dir, _ := serve(t)
	c := startMany(t, dir, 299)
	c.keepReading(t)
	init := startHammer(t, dir)
	sleep(3000) // the rate is that of the last one to two seconds
	text, stderr, exit := vprocfs(t, "ps", "--mount", dir)
	if exit != 0 {
		t.Fatal(stderr)
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 301 || strings.Fields(lines[1])[1] != strconv.Itoa(init) {
		t.Errorf("the culprit is %d:\n%s", init, strings.Join(lines[:min(5, len(lines))], "\n"))
	}
	if s, _ := askStatus(t, dir); len(s.Worker.Top) == 0 || s.Worker.Top[0].Init != init {
		t.Errorf("status: %+v", s.Worker.Top)
	}
	// Each is shown its own limit.
	for _, r := range listed(t, dir) {
		if i := slices.Index(c.pids, r.Init); i >= 0 && (r.Memory != uint64(64+i)<<20 || r.CPUs == 0) {
			t.Errorf("container %d: %+v", i, r)
		}
	}
}

// BenchmarkAnswers measures how long an operator waits with so many containers that read
// once a second, and what the worker does for it.
func BenchmarkAnswers(b *testing.B) {
	for _, n := range []int{300, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			dir, _ := serve(b)
			c := startMany(b, dir, n)
			c.keepReading(b)
			scrape := startExporter(b, dir)
			for _, what := range []struct {
				name string
				ask  func()
			}{
				{"status", func() { vprocfs(b, "status", "--mount", dir) }},
				{"ps", func() { vprocfs(b, "ps", "--mount", dir) }},
				{"explain", func() { vprocfs(b, "explain", "--mount", dir, "--pid", strconv.Itoa(c.pids[7])) }},
				{"scrape", scrape},
			} {
				b.Run(what.name, func(b *testing.B) {
					var times []time.Duration
					before := workerCPU(b, dir)
					for b.Loop() {
						begin := time.Now()
						what.ask()
						times = append(times, time.Since(begin))
						sleep(100)
					}
					took := workerCPU(b, dir) - before
					slices.Sort(times)
					b.ReportMetric(float64(times[len(times)/2])/1e6, "median-ms")
					b.ReportMetric(float64(times[len(times)-1])/1e6, "longest-ms")
					b.ReportMetric(took*1e3/float64(len(times)), "worker-CPU-ms/op")
					b.ReportMetric(0, "ns/op") // with the pauses
				})
			}
		})
	}
}

// workerCPU returns the CPU time of the worker in seconds.
func workerCPU(t testing.TB, dir string) float64 {
	t.Helper()
	s, _ := askStatus(t, dir)
	if s.Worker == nil {
		t.Fatal("no worker answers")
	}
	return s.Worker.Process.CPU
}

// startExporter starts vprocfs-export with metrics of ten containers, and returns what
// scrapes it.
func startExporter(t testing.TB, dir string) (scrape func()) {
	t.Helper()
	program, path := filepath.Join(t.TempDir(), "vprocfs-export"), filepath.Join(t.TempDir(), "export.sock")
	build := exec.Command("go", "build", "-trimpath", "-o", program, module+"/cmd/vprocfs-export")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	cmd := exec.Command(program, "--mount", dir, "--listen", "unix:"+path, "--per-container", "10")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	})
	waitFor(t, "the exporter to listen", func() bool {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return func() {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n")
		text, readErr := io.ReadAll(c)
		if err != nil || readErr != nil || !strings.Contains(string(text), "vprocfs_up 1\n") || !strings.Contains(string(text), "\nvprocfs_container_reads_total{") {
			t.Fatalf("%v, %v: %s", err, readErr, text)
		}
	}
}
