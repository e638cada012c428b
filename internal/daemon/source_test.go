// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/initpid"
	"vprocfs/internal/seccomp/seccomptest"
)

func TestMain(m *testing.M) {
	seccomptest.Main()
	initpid.RunHelper()
	if n := os.Getenv(readerEnv); n != "" {
		if err := readMix(n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func testSource(t testing.TB) *source {
	t.Helper()
	s, err := newSource(ViewOptions{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// sleeper starts a process that is the init of a pid namespace, in cgroups of
// its own.
func sleeper(t *testing.T) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	startReader(t, cmd)
	return cmd.Process.Pid
}

// The nodes of files that the tests read.
const (
	nodeUptime     fs.NodeID = 16
	nodeMeminfo    fs.NodeID = 17
	nodeStat       fs.NodeID = 18
	nodeCPUInfo    fs.NodeID = 19
	nodeLoadavg    fs.NodeID = 20
	nodeSwaps      fs.NodeID = 21
	nodeDiskstats  fs.NodeID = 22
	nodeSlabinfo   fs.NodeID = 23
	nodeCPUOnline  fs.NodeID = 32
	nodeCPUPresent fs.NodeID = 33
	nodeCPUOffline fs.NodeID = 35
)

var servedNodes = []fs.NodeID{
	nodeUptime, nodeMeminfo, nodeStat, nodeCPUInfo, nodeSwaps, nodeDiskstats, nodeSlabinfo, nodeLoadavg,
	nodeCPUOnline, nodeCPUPresent, nodeCPUPossible, nodeCPUOffline,
}

// TestCallersWithoutAContainerGetTheHostsFile guards the names of the reasons.
func TestCallersWithoutAContainerGetTheHostsFile(t *testing.T) {
	s := testSource(t)
	for reason, pid := range map[string]int{"caller-invisible": 0, "caller-gone": 1 << 29} {
		got, err := s.Append(nil, nodeUptime, fs.NewTurn(fs.Caller{PID: pid}))
		if err != nil || len(strings.Fields(string(got))) != 2 {
			t.Errorf("%s: %q, %v", reason, got, err)
		}
		if n := s.registry.Stats()["uptime/"+reason]; n != 1 {
			t.Errorf("%s: counted %d times: %v", reason, n, s.registry.Stats())
		}
	}
}

// TestEverythingIsGivenBackWhenAContainerEnds guards descriptors: of the init, of
// the control groups, of the callers.
func TestEverythingIsGivenBackWhenAContainerEnds(t *testing.T) {
	s := testSource(t)
	idle := s.registry.OpenFiles()
	pid := sleeper(t)
	for range 5 {
		for _, n := range servedNodes {
			if _, err := s.Append(nil, n, fs.NewTurn(fs.Caller{PID: pid})); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s.registry.OpenFiles() <= idle {
		t.Fatal("no file is kept open")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); s.registry.OpenFiles() > idle; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d files open, %d before", s.registry.OpenFiles(), idle)
		}
	}
}
