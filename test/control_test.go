// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// statusOf is what vprocfs status says, as far as the tests look at it.
type statusOf struct {
	Well     bool
	Problems []string
	Daemon   struct {
		MountPoint string `json:"mount_point"`
		Warnings   []string
		LogLevel   string `json:"log_level"`
		Holder     struct {
			PID, Worker int
			Restarts    int
			Upgrades    int
			Last        []struct {
				PID    int
				Reason string
			} `json:"last_restarts"`
		}
	}
	Worker *struct {
		View    struct{ Delaying int }
		Process struct {
			CPU float64 `json:"cpu_seconds"`
		}
		Server struct {
			Requests []struct {
				Op, File string
				N        uint64
			}
		}
		Top []struct {
			Init      int
			PerSecond float64 `json:"reads_per_second"`
		}
	}
}

// askStatus runs vprocfs status, as JSON.
func askStatus(t testing.TB, dir string) (s statusOf, exit int) {
	t.Helper()
	out, stderr, exit := vprocfs(t, "status", "--json", "--mount", dir)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("exit status %d: %s%s: %v", exit, out, stderr, err)
	}
	return s, exit
}

// TestStatusSaysWhetherTheDaemonIsWell, over the death of a worker, while one hangs, and when
// there is no daemon.
func TestStatusSaysWhetherTheDaemonIsWell(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	checkUptime(t, dir)
	s, exit := askStatus(t, dir)
	if !s.Well || exit != 0 || s.Daemon.MountPoint != dir || s.Daemon.Holder.PID != d.cmd.Process.Pid || s.Worker == nil {
		t.Fatalf("exit status %d: %+v", exit, s)
	}
	reads := uint64(0)
	for _, r := range s.Worker.Server.Requests {
		if r.Op == "read" && r.File == "proc/uptime" {
			reads = r.N
		}
	}
	if reads == 0 {
		t.Errorf("no read of uptime is counted: %+v", s.Worker.Server.Requests)
	}
	killed := s.Daemon.Holder.Worker
	unix.Kill(killed, unix.SIGKILL)
	waitFor(t, "another worker to be well", func() bool {
		s, exit = askStatus(t, dir)
		return s.Well && exit == 0 && s.Daemon.Holder.Restarts == 1
	})
	if last := s.Daemon.Holder.Last; len(last) != 1 || last[0].PID != killed || !strings.Contains(last[0].Reason, "killed") {
		t.Errorf("%+v", last)
	}
	if text, _, exit := vprocfs(t, "status", "--mount", dir); exit != 0 || !strings.Contains(text, "worker "+strconv.Itoa(killed)+": signal: killed") {
		t.Errorf("exit status %d: %s", exit, text)
	}
	unix.Kill(s.Daemon.Holder.Worker, unix.SIGSTOP)
	s, exit = askStatus(t, dir)
	if s.Well || exit != 1 || len(s.Problems) == 0 {
		t.Errorf("a worker that is stopped: exit status %d: %+v", exit, s)
	}
	unix.Kill(s.Daemon.Holder.Worker, unix.SIGCONT)
	d.cmd.Process.Signal(unix.SIGTERM)
	d.end(t)
	if out, stderr, exit := vprocfs(t, "status", "--mount", dir); exit != 1 || out != "" || !strings.Contains(stderr, "no daemon listens") {
		t.Errorf("no daemon: exit status %d: %s%s", exit, out, stderr)
	}
}

// listedContainer is a container that vprocfs ps lists.
type listedContainer struct {
	Name, Group            string
	Init, CPUs             int
	Memory, Reads, Delayed uint64
	PerSecond              float64 `json:"reads_per_second"`
}

// listed runs vprocfs ps, as JSON.
func listed(t testing.TB, dir string) (rows []listedContainer) {
	t.Helper()
	out, stderr, exit := vprocfs(t, "ps", "--json", "--mount", dir)
	if exit != 0 {
		t.Fatalf("exit status %d: %s", exit, stderr)
	}
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestPSFindsWhoHammers: the container that reads in a loop is the first line, and status
// names it. It also has what each of them is shown.
func TestPSFindsWhoHammers(t *testing.T) {
	dir, _ := serve(t)
	quiet := startContainer(t, "--mount", dir, "--memory", "64m")
	loud := startContainer(t, "--mount", dir, "--memory", "32m")
	quiet.sh(t, "cat /proc/uptime")
	if _, err := io.WriteString(loud.in, "(while :; do read x </proc/uptime; done) & echo\n"); err != nil {
		t.Fatal(err)
	}
	var rows []listedContainer
	waitFor(t, "the container that hammers to be the first", func() bool {
		rows = listed(t, dir)
		return len(rows) > 1 && rows[0].Init == loud.init && rows[0].PerSecond > 10
	})
	want := map[int]uint64{quiet.init: 64 << 20, loud.init: 32 << 20}
	for _, r := range rows {
		if m, ok := want[r.Init]; ok && (r.Memory != m || r.CPUs == 0 || r.Group == "" || r.Name == "" || r.Reads == 0) {
			t.Errorf("%+v", r)
		}
		delete(want, r.Init)
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v in %+v", want, rows)
	}
	if s, _ := askStatus(t, dir); len(s.Worker.Top) == 0 || s.Worker.Top[0].Init != loud.init {
		t.Errorf("%+v", s.Worker.Top)
	}
	text, _, _ := vprocfs(t, "ps", "--mount", dir, "--sort", "init")
	if lines := strings.Split(text, "\n"); !strings.HasPrefix(lines[0], "NAME") || !strings.Contains(text, " "+strconv.Itoa(quiet.init)+" ") {
		t.Errorf("%s", text)
	}
	if text, _, _ = vprocfs(t, "ps", "--mount", dir, "--filter", "no such container"); strings.Count(text, "\n") != 1 {
		t.Errorf("%s", text)
	}
}

// TestExplainAsksTheDaemon, and works it out itself if none answers, and says which.
func TestExplainAsksTheDaemon(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	c := startContainer(t, "--mount", dir)
	c.sh(t, "cat /proc/meminfo")
	pid := strconv.Itoa(c.init)
	text, stderr, exit := vprocfs(t, "explain", "--pid", pid, "--mount", dir)
	if exit != 0 || stderr != "" || !strings.Contains(text, "the daemon\n") || !strings.Contains(text, " reads, ") || !strings.Contains(text, "\nmeminfo: the container's") {
		t.Errorf("exit status %d: %s%s", exit, stderr, text)
	}
	for _, flags := range [][]string{{"--mount", dir, "--swap", "off"}, {"--mount", t.TempDir()}} {
		text, stderr, exit = vprocfs(t, append([]string{"explain", "--pid", pid}, flags...)...)
		if exit != 0 || stderr != "" || !strings.Contains(text, "this command, not a daemon: ") || !strings.Contains(text, "\nmeminfo: the container's") {
			t.Errorf("%q: exit status %d: %s%s", flags, exit, stderr, text)
		}
	}
}

// TestLogLevelChangesWhileItRuns, in holder and worker, and over an upgrade and the death of
// the worker.
func TestLogLevelChangesWhileItRuns(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	if _, stderr, exit := vprocfs(t, "log-level", "--mount", dir, "loud"); exit != 1 || !strings.Contains(stderr, "must be debug") {
		t.Errorf("exit status %d: %s", exit, stderr)
	}
	if _, stderr, exit := vprocfs(t, "log-level", "--mount", dir, "debug"); exit != 0 {
		t.Fatalf("exit status %d: %s", exit, stderr)
	}
	c := startContainer(t, "--mount", dir)
	policy(t, "set", c, "view=off")
	c.sh(t, "cat /proc/swaps") // the host's file, in a line of level debug
	d.until(t, "level=DEBUG", "the host's file is given", "reason=policy")
	if _, stderr, exit := vprocfs(t, "upgrade", dir); exit != 0 {
		t.Fatal(stderr)
	}
	if s, _ := askStatus(t, dir); s.Daemon.LogLevel != "DEBUG" || s.Daemon.Holder.Upgrades != 1 {
		t.Errorf("after an upgrade: %+v", s.Daemon)
	}
}

// TestClientsOfTheSocketDelayNoReader: some hang, some flood, some send garbage.
func TestClientsOfTheSocketDelayNoReader(t *testing.T) {
	dir, _ := serve(t)
	path := "/run/vprocfs/" + strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-") + ".sock"
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, send := range []string{"", "\x00\xff\n", strings.Repeat("x", 1<<16), `{"version":1,"verb":"stats"}` + "\n", `{"version":1,"verb":"containers"}` + "\n" + `{"version":1`, "{}\n"} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("unix", path)
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				c.SetDeadline(time.Now().Add(time.Second))
				io.WriteString(c, send) // an error says that it was cut off
				if i%2 == 0 {
					io.ReadAll(c)
				}
				c.Close()
			}
		})
	}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		begin := time.Now()
		checkUptime(t, dir)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("a reader waited %s", took)
		}
	}
	close(stop)
	wg.Wait()
	waitFor(t, "the daemon to be well", func() bool {
		out, _, exit := vprocfs(t, "status", "--json", "--mount", dir)
		return exit == 0 && bytes.Contains([]byte(out), []byte(`"well": true`))
	})
}

// TestAFrozenClientDelaysNobody: one that does not take its answer, and one that is stopped
// in the middle. Nor does the death of the worker that is asked end a command in an error.
func TestAFrozenClientDelaysNobody(t *testing.T) {
	dir, _ := serve(t)
	path := "/run/vprocfs/" + strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-") + ".sock"
	for range 4 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, `{"version":1,"verb":"stats"}`+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	var frozen []*exec.Cmd
	for range 4 {
		cmd := exec.Command("vprocfs", "ps", "--mount", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Signal(unix.SIGSTOP)
		frozen = append(frozen, cmd)
	}
	defer func() {
		for _, cmd := range frozen {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}()
	for range 10 {
		checkUptime(t, dir)
		if s, exit := askStatus(t, dir); exit != 0 {
			t.Errorf("exit status %d: %v", exit, s.Problems)
		}
	}
}

// TestCommandsSurviveTheDeathOfWorkers that they ask.
func TestCommandsSurviveTheDeathOfWorkers(t *testing.T) {
	dir, worker := serve(t)
	c := startContainer(t, "--mount", dir)
	c.sh(t, "cat /proc/uptime")
	for range 3 {
		for _, command := range [][]string{{"ps"}, {"explain", "--pid", strconv.Itoa(c.init)}} {
			unix.Kill(worker, unix.SIGKILL)
			text, stderr, exit := vprocfs(t, append(command, "--mount", dir)...)
			if exit != 0 || strings.Contains(text, "this command, not a daemon") {
				t.Errorf("%q: exit status %d: %s%s", command, exit, text, stderr)
			}
			c.sh(t, "cat /proc/uptime") // another worker serves
			s, _ := askStatus(t, dir)
			worker = s.Daemon.Holder.Worker
		}
	}
}

// TestADaemonServesWithoutItsSocket if /run takes nothing: it is read-only, or full.
func TestADaemonServesWithoutItsSocket(t *testing.T) {
	for _, options := range []string{"ro", "size=4k,nr_inodes=1"} {
		t.Run(options, func(t *testing.T) { servesWithoutSocket(t, options) })
	}
}

func servesWithoutSocket(t *testing.T, options string) {
	dir := t.TempDir()
	script := fmt.Sprintf(`mount -t tmpfs -o %s none /run && exec vprocfs serve --debug-listen unix:/run/debug.sock %s`, options, dir)
	d := startDaemonCommand(t, dir, exec.Command("unshare", "-m", "--propagation", "unchanged", "sh", "-c", "mount --make-rprivate /run; "+script), nil)
	d.until(t, "no control socket")
	d.until(t, "nobody can ask for profiles")
	checkUptime(t, fmt.Sprintf("/proc/%d/root%s", d.cmd.Process.Pid, dir)) // the mount may be in its namespace alone
}
