// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestMaxRateDelaysTheContainerThatHammers without an error, and no other. ps and status say
// so, and a container whose reads wait can be killed.
func TestMaxRateDelaysTheContainerThatHammers(t *testing.T) {
	const rate = 5
	dir, worker := serve(t, "--max-rate", strconv.Itoa(rate))
	quiet := startContainer(t, "--mount", dir)
	loud := startContainer(t, "--mount", dir)
	quiet.sh(t, "cat /proc/uptime")
	begin := time.Now()
	// What one of the readers prints is an error. The others end with the shell.
	const n, seconds = 8, 4
	script := `p=; for i in $(seq %d); do while :; do read x </proc/uptime || echo failed; done & p="$p $!"; done; sleep %d; kill $p; wait`
	done := make(chan string, 1)
	go func() { done <- loud.sh(t, fmt.Sprintf(script, n, seconds)) }()
	reads := func() (loudReads, quietReads, delayed uint64) {
		for _, r := range listed(t, dir) {
			switch r.Init {
			case loud.init:
				loudReads, delayed = r.Reads, r.Delayed
			case quiet.init:
				quietReads = r.Reads
				if r.Delayed != 0 {
					t.Errorf("a container that reads little was delayed: %+v", r)
				}
			}
		}
		return loudReads, quietReads, delayed
	}
	waitFor(t, "reads to be delayed", func() bool {
		_, _, delayed := reads()
		return delayed > 0
	})
	for range 2 * rate {
		quiet.sh(t, "cat /proc/uptime")
		sleep(1000 / rate)
	}
	if out := <-done; out != "" {
		t.Errorf("the readers that are delayed: %q", out)
	}
	got, _, delayed := reads()
	// A second is saved up at first. Those that were killed may have read once more each.
	if most := rate*(time.Since(begin).Seconds()+1) + 2*n; float64(got) > most || got < rate {
		t.Errorf("%d reads in %s, want %d to %.0f", got, time.Since(begin), rate, most)
	}
	text, _, _ := vprocfs(t, "status", "--mount", dir)
	if want := fmt.Sprintf("%d reads/s for each container, %d reads delayed", rate, delayed); !strings.Contains(text, want) {
		t.Errorf("want %q in:\n%s", want, text)
	}
	if size, _, threads := daemonSize(t, worker); threads > 40 {
		t.Errorf("the worker has %d threads and %d KiB", threads, size)
	}
	// Its end does not wait for its reads.
	if _, err := io.WriteString(loud.in, "for i in $(seq 100); do read x </proc/uptime & done; exec 1>&-; sleep 1000\n"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "many reads to wait", func() bool { return delaying(t, dir) > 30 })
	begin = time.Now()
	if out, err := exec.Command("kill", "-9", strconv.Itoa(loud.init)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	loud.in.Close()
	loud.cmd.Wait()
	waitFor(t, "no read to wait", func() bool { return delaying(t, dir) == 0 })
	t.Logf("the container has ended after %s", time.Since(begin))
}

// delaying returns how many reads wait because of --max-rate.
func delaying(t *testing.T, dir string) int {
	t.Helper()
	s, _ := askStatus(t, dir)
	if s.Worker == nil {
		t.Fatal("no worker answers")
	}
	return s.Worker.View.Delaying
}
