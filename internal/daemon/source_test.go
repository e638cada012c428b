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
	"vprocfs/procvirt"
)

func TestMain(m *testing.M) {
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

var servedNodes = []fs.NodeID{
	fs.NodeUptime, fs.NodeMeminfo, fs.NodeStat, fs.NodeCPUInfo, fs.NodeSwaps, fs.NodeDiskstats, fs.NodeSlabinfo, fs.NodeLoadavg,
	fs.NodeCPUOnline, fs.NodeCPUPresent, fs.NodeCPUPossible, fs.NodeCPUOffline,
}

// TestCallersWithoutAContainerGetTheHostsFile guards the names of the reasons.
func TestCallersWithoutAContainerGetTheHostsFile(t *testing.T) {
	s := testSource(t)
	for reason, pid := range map[string]int{"caller-invisible": 0, "caller-gone": 1 << 29} {
		got, err := s.append(nil, fs.NodeUptime, fs.Caller{PID: pid}, true)
		if err != nil || len(strings.Fields(string(got))) != 2 {
			t.Errorf("%s: %q, %v", reason, got, err)
		}
		if n := s.Stats()["uptime/"+reason]; n != 1 {
			t.Errorf("%s: counted %d times: %v", reason, n, s.Stats())
		}
	}
}

// TestEverythingIsGivenBackWhenAContainerEnds guards descriptors: of the init, of
// the control groups, of the callers.
func TestEverythingIsGivenBackWhenAContainerEnds(t *testing.T) {
	s := testSource(t)
	idle := s.views.OpenFiles()
	pid := sleeper(t)
	for range 5 {
		for _, n := range servedNodes {
			for _, wait := range []bool{true, false} {
				if _, err := s.append(nil, n, fs.Caller{PID: pid}, wait); err != nil && err != procvirt.ErrCold {
					t.Fatal(err)
				}
			}
		}
	}
	if s.views.OpenFiles() <= idle {
		t.Fatal("no file is kept open")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); s.views.OpenFiles() > idle; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d files open, %d before", s.views.OpenFiles(), idle)
		}
	}
}

// TestAColdContainerIsSaidToBe guards the two halves of a request: nothing is
// answered before the slow work is done.
func TestAColdContainerIsSaidToBe(t *testing.T) {
	s := testSource(t)
	c := fs.Caller{PID: sleeper(t)}
	// each needs files of its own
	for _, n := range []fs.NodeID{fs.NodeUptime, fs.NodeMeminfo} {
		if got, err := s.append(nil, n, c, false); err != procvirt.ErrCold || len(got) != 0 {
			t.Errorf("node %d, cold: %q, %v", n, got, err)
		}
		if got, err := s.append(nil, n, c, true); err != nil || len(got) == 0 {
			t.Errorf("node %d, waiting: %q, %v", n, got, err)
		}
	}
}

// TestACallerThatComesOnceIsNotKept guards descriptors: a request may be answered in
// two halves, without waiting and with.
func TestACallerThatComesOnceIsNotKept(t *testing.T) {
	s := testSource(t)
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()
	}()
	c := fs.Caller{PID: cmd.Process.Pid}
	for _, wait := range []bool{false, true} {
		if _, err := s.append(nil, fs.NodeUptime, c, wait); err != nil && err != procvirt.ErrCold {
			t.Fatal(err)
		}
	}
	if _, _, ok := s.callers.Read(c.PID, nil); ok {
		t.Error("the file of a caller that came once is kept")
	}
	if _, err := s.append(nil, fs.NodeUptime, c, false); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := s.callers.Read(c.PID, nil); !ok {
		t.Error("the file of a caller that came again is not kept")
	}
}
