// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// companionOf builds a program that stands beside vprocfs, unless it is there already.
func companionOf(t *testing.T, name string) {
	t.Helper()
	binary, err := exec.LookPath("vprocfs")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(binary), name)
	if _, err := os.Stat(path); err == nil {
		return
	}
	build := exec.Command("go", "build", "-trimpath", "-o", path, module+"/cmd/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
}

// twoReaders starts a container that has read once, and one that does all the time.
func twoReaders(t *testing.T, dir string) (quiet, loud *container) {
	t.Helper()
	quiet = startContainer(t, "--mount", dir, "--memory", "64m")
	loud = startContainer(t, "--mount", dir, "--memory", "32m")
	quiet.sh(t, "cat /proc/uptime")
	if _, err := io.WriteString(loud.in, "(while :; do read x </proc/uptime; done) 2>/dev/null & echo\n"); err != nil {
		t.Fatal(err)
	}
	return quiet, loud
}

// firstRow returns the fields of the first container on the screen.
func firstRow(lines []string) []string {
	for i, l := range lines {
		if strings.HasPrefix(l, "NAME") && i+1 < len(lines) {
			return strings.Fields(lines[i+1])
		}
	}
	return nil
}

// readsOf returns the number in the row of a file in a container's detail, -1 if there is none.
func readsOf(lines []string, file string) int {
	for _, l := range lines {
		if f := strings.Fields(l); len(f) > 1 && f[0] == file {
			if n, err := strconv.Atoi(f[1]); err == nil {
				return n
			}
		}
	}
	return -1
}

// TestTopFindsWhoHammers, at three sizes of the terminal and while it is resized, and what
// that container reads.
func TestTopFindsWhoHammers(t *testing.T) {
	dir, _ := serve(t)
	quiet, loud := twoReaders(t, dir)
	fits := func(m *terminal, width, height int) {
		t.Helper()
		m.waitFor(t, fmt.Sprintf("the list in %dx%d", width, height), func(lines []string) bool {
			row := firstRow(lines)
			return len(lines) == height && len(row) > 1 && row[1] == strconv.Itoa(loud.init) &&
				strings.Contains(lines[0], ": well") && strings.Contains(lines[height-1], "q quit")
		})
		lines := m.lines(t)
		for _, l := range lines {
			if utf8.RuneCountInString(l) > width {
				t.Errorf("%dx%d: too wide: %s", width, height, l)
			}
		}
		if all := strings.Join(lines, "\n"); !strings.Contains(all, "READS/S") || !strings.Contains(all, " 32.0M") || strings.Contains(all, "POLICY") != (width >= 120) {
			t.Errorf("%dx%d:\n%s", width, height, all)
		}
	}
	sizes := [][2]int{{80, 24}, {120, 40}, {200, 60}}
	for _, size := range sizes {
		m := startTmux(t, size[0], size[1], nil, "vprocfs", "top", "--mount", dir, "-d", "500ms")
		fits(m, size[0], size[1])
		for _, other := range sizes {
			m.resize(t, other[0], other[1])
			fits(m, other[0], other[1])
		}
		m.keys(t, "q")
		m.wantEnd(t)
	}

	m := startTmux(t, 80, 24, nil, "vprocfs", "top", "--mount", dir, "-d", "200ms")
	fits(m, 80, 24)
	m.keys(t, "Enter")
	m.waitFor(t, "what it reads", func(lines []string) bool { return readsOf(lines, "uptime") > 10 })
	m.waitFor(t, "a sparkline", func(lines []string) bool { return strings.Contains(strings.Join(lines, "\n"), "█") })
	m.keys(t, "Escape")
	m.waitText(t, "NAME")
	m.keys(t, "I") // the least pid first
	m.waitFor(t, "another order", func(lines []string) bool {
		all := strings.Join(lines, "\n")
		q, l := strings.Index(all, " "+strconv.Itoa(quiet.init)+" "), strings.Index(all, " "+strconv.Itoa(loud.init)+" ")
		return q >= 0 && l >= 0 && (q < l) == (quiet.init < loud.init) && strings.Contains(all, "by init")
	})
	filter := "vprocfs-run-" + strconv.Itoa(quiet.cmd.Process.Pid)
	m.keys(t, "/")
	m.keys(t, "-l", filter)
	m.keys(t, "Enter")
	m.waitFor(t, "only the quiet one", func(lines []string) bool {
		row := firstRow(lines)
		return len(row) > 1 && row[1] == strconv.Itoa(quiet.init) && strings.HasPrefix(lines[23], "1 of ")
	})
	m.keys(t, "h")
	m.waitText(t, "Ctrl-C")
	m.keys(t, "C-c")
	m.wantEnd(t)
}

// TestTopGoesOnOverTheDeathOfTheWorker, an upgrade and the end of the daemon, and says so.
func TestTopGoesOnOverTheDeathOfTheWorker(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	_, loud := twoReaders(t, dir)
	m := startTmux(t, 100, 24, nil, "vprocfs", "top", "--mount", dir, "-d", "200ms")
	goesOn := func() {
		t.Helper()
		m.waitFor(t, "the list of a worker", func(lines []string) bool {
			row := firstRow(lines)
			return strings.Contains(lines[0], ": well") && len(row) > 1 && row[1] == strconv.Itoa(loud.init)
		})
	}
	goesOn()
	killed := d.worker(t)
	unix.Kill(killed, unix.SIGKILL)
	m.waitText(t, fmt.Sprintf("worker %d ended: signal: killed", killed))
	goesOn()
	if _, stderr, exit := vprocfs(t, "upgrade", dir); exit != 0 {
		t.Fatal(stderr)
	}
	m.waitText(t, "upgraded: ")
	goesOn()
	worker := d.worker(t)
	unix.Kill(worker, unix.SIGSTOP)
	m.waitFor(t, "a worker that hangs", func(lines []string) bool {
		return strings.Contains(lines[0], "no answer since") || strings.Contains(lines[0], "does not answer")
	})
	unix.Kill(worker, unix.SIGCONT)
	goesOn()
	d.cmd.Process.Signal(unix.SIGTERM)
	d.end(t)
	m.waitText(t, "no daemon listens")
	m.keys(t, "q")
	m.wantEnd(t)
}

// colourPattern is a colour in what tmux has captured with -e.
var colourPattern = regexp.MustCompile(`\x1b\[(\d+;)*(3[0-8]|4[0-8]|9[0-7])[;m]`)

// TestTopHasNoColoursWithNOCOLOR, and some without.
func TestTopHasNoColoursWithNOCOLOR(t *testing.T) {
	for _, c := range []struct {
		env     []string
		colours bool
	}{{nil, true}, {[]string{"NO_COLOR=1"}, false}} {
		dir := t.TempDir()
		d := startDaemon(t, dir, nil, "serve", dir)
		d.line(t)
		m := startTmux(t, 80, 24, c.env, "vprocfs", "top", "--mount", dir, "-d", "200ms")
		m.waitText(t, ": well")
		d.cmd.Process.Signal(unix.SIGTERM)
		d.end(t)
		m.waitText(t, "no daemon listens")
		text := strings.Join(m.lines(t, "-e"), "\n")
		if got := colourPattern.MatchString(text); got != c.colours || !strings.Contains(text, "\x1b[") {
			t.Errorf("%v: colours: %t\n%q", c.env, got, text)
		}
		m.keys(t, "q")
		m.wantEnd(t)
	}
}

// TestTopPrintsTextInAPipe with --batch, and says so without.
func TestTopPrintsTextInAPipe(t *testing.T) {
	dir, _ := serve(t)
	_, loud := twoReaders(t, dir)
	waitFor(t, "the loud container to be first", func() bool {
		out, stderr, exit := vprocfs(t, "top", "--batch", "-n", "1", "--mount", dir)
		if exit != 0 || stderr != "" {
			t.Fatalf("exit status %d: %s%s", exit, out, stderr)
		}
		row := firstRow(strings.Split(out, "\n"))
		return len(row) > 1 && row[1] == strconv.Itoa(loud.init) && strings.Contains(out, "POLICY")
	})
	out, _, _ := vprocfs(t, "top", "--batch", "-n", "3", "-d", "100ms", "--detail", "--mount", dir)
	if looks := strings.Split(out, "\n\nvprocfs top, "); len(looks) != 3 || readsOf(strings.Split(looks[2], "\n"), "uptime") <= 0 || !strings.Contains(looks[0], "uptime") {
		t.Errorf("%d looks:\n%s", len(looks), out)
	}
	for _, c := range []struct {
		args []string
		exit int
		says string
	}{
		{[]string{"--mount", dir}, 1, "no terminal: use --batch"},
		{[]string{"--mount", t.TempDir()}, 1, "no daemon listens"},
		{[]string{"--batch", "--mount", t.TempDir()}, 1, "no daemon listens"},
		{[]string{"--sort", "colour"}, 2, "must be one of"},
		{[]string{"-d", "1ms"}, 2, "at least"},
		{[]string{"more"}, 2, "unexpected argument"},
	} {
		out, stderr, exit := vprocfs(t, append([]string{"top"}, c.args...)...)
		if exit != c.exit || out != "" || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit status %d: %s%s", c.args, exit, out, stderr)
		}
	}
}

// TestTopAndOthersPrintNoEscapesOfAName: a control group may have any name. One is
// written as systemd writes such characters.
func TestTopAndOthersPrintNoEscapesOfAName(t *testing.T) {
	dir, _ := serve(t)
	top := newGroup(t)
	var loud *container
	for _, name := range []string{"evil\x1b[2J\a\u009b31m\u202e\xff", `evil\x1b[31m\x9b.service`} {
		c := startContainer(t, "--mount", dir)
		top.child(t, name).adopt(t, c)
		t.Cleanup(func() { // before the group is removed
			c.in.Close()
			c.cmd.Wait()
		})
		loud = c
		if _, err := io.WriteString(loud.in, "(while :; do read x </proc/uptime; done) 2>/dev/null & echo\n"); err != nil {
			t.Fatal(err)
		}
	}
	pid := strconv.Itoa(loud.init)
	for _, args := range [][]string{
		{"ps"}, {"ps", "--json"}, {"status"}, {"status", "--json"}, {"explain", "--pid", pid}, {"explain", "--json", "--pid", pid},
		{"explain", "--pid", pid, "--swap", "off"}, {"top", "--batch", "-n", "1"}, {"top", "--batch", "-n", "1", "--detail"}, {"get", "--pid", pid},
		{"get", "--json", "--pid", pid},
	} {
		if args[0] != "get" {
			args = append(args, "--mount", dir)
		}
		var out, stderr string
		waitFor(t, strings.Join(args, " ")+" to name it", func() bool {
			var exit int
			if out, stderr, exit = vprocfs(t, args...); exit != 0 {
				t.Fatalf("%q: exit status %d: %s", args, exit, stderr)
			}
			return args[0] == "get" || strings.Contains(out, "evil")
		})
		for _, r := range out + stderr {
			if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == 0x202e {
				t.Errorf("%q: %q in %q", args, r, out+stderr)
				break
			}
		}
	}
	m := startTmux(t, 200, 24, nil, "vprocfs", "top", "--mount", dir, "-d", "200ms")
	m.waitText(t, "evil")
	m.keys(t, "Enter")
	m.waitText(t, "uptime")
	if lines := m.lines(t); !strings.HasPrefix(lines[0], "vprocfs top") || !strings.Contains(strings.Join(lines, "\n"), "evil?[") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	m.keys(t, "q")
	m.wantEnd(t)
}

// TestExportIsStartedByItsVerb, and answers.
func TestExportIsStartedByItsVerb(t *testing.T) {
	companionOf(t, "vprocfs-export")
	dir, _ := serve(t)
	socket := filepath.Join(t.TempDir(), "scrapes")
	cmd := exec.Command("vprocfs", "export", "--listen", "unix:"+socket, "--mount", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	waitFor(t, "an answer", func() bool {
		r, err := client.Get("http://vprocfs/metrics")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return false
		}
		return strings.Contains(string(text), "\nvprocfs_up 1\n")
	})
	if _, stderr, exit := vprocfs(t, "export", "--per-container", "-1"); exit != 2 || !strings.Contains(stderr, "must not be negative") {
		t.Errorf("exit status %d: %s", exit, stderr)
	}
}
