// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestProcessesInATimeNamespaceStartedWhenTheyDid compares with the kernel's own
// /proc, in a container whose init is in a time namespace.
func TestProcessesInATimeNamespaceStartedWhenTheyDid(t *testing.T) {
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("the kernel has no time namespaces")
	}
	dir, _ := serve(t)
	c := talkTo(t, exec.Command("unshare", "-T", "--boottime", "100000", "--fork", "vprocfs", "run", "--mount", dir, "--", "sh"))
	kernel := t.TempDir()
	c.sh(t, "mount -t proc proc "+kernel)
	defer c.sh(t, "umount "+kernel)
	btime := func(path string) int {
		return parseInt(t, strings.TrimSpace(c.sh(t, "sed -n 's/^btime //p' "+path)))
	}
	if shown, want := btime("/proc/stat"), btime(kernel+"/stat"); shown != want {
		t.Errorf("btime %d, want %d", shown, want)
	}
	before := uptimeSeconds(t, c.sh(t, "cat "+kernel+"/uptime"))
	got := uptimeSeconds(t, c.sh(t, "cat /proc/uptime"))
	after := uptimeSeconds(t, c.sh(t, "cat "+kernel+"/uptime"))
	if got < before || got > after || got < 100000 {
		t.Errorf("up for %.2f s, the kernel says %.2f to %.2f", got, before, after)
	}
	started := strings.TrimSpace(c.sh(t, "date -d \"$(ps -o lstart= -p $$)\" +%s"))
	now := strings.TrimSpace(c.sh(t, "date +%s"))
	if age := parseInt(t, now) - parseInt(t, started); age < -1 || age > 60 {
		t.Errorf("ps says that the shell started %d s ago", age)
	}
}

func uptimeSeconds(t testing.TB, line string) float64 {
	t.Helper()
	return floats(t, line)[0]
}

func parseInt(t testing.TB, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
