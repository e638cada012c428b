// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// terminal is a terminal of tmux(1) with one program on it.
type terminal struct {
	socket string
	status string // a file that has the exit status of the program, once it has ended
	env    []string
}

// startTmux starts a program on a new terminal. env is beside a plain environment.
func startTmux(t *testing.T, width, height int, env []string, command ...string) *terminal {
	t.Helper()
	need(t, "tmux", "tmux")
	dir := t.TempDir()
	m := &terminal{filepath.Join(dir, "tmux"), filepath.Join(dir, "status"), append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=/", "LC_ALL=C.UTF-8", "TERM=xterm-256color", "SHELL=/bin/sh",
	}, env...)}
	t.Cleanup(func() { m.run("kill-server") }) // an error says that it has ended
	m.must(t, append([]string{
		"new-session", "-d", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height), "sleep 1000000", ";",
		"set-option", "-g", "remain-on-exit", "on", ";", "set-option", "-g", "window-size", "manual", ";", "set-option", "-g", "status", "off", ";",
		// Of this size from its start.
		"resize-window", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height), ";",
		// tmux loses an exit status now and then after respawn-pane -k (3.3a).
		"respawn-pane", "-k", "sh", "-c", `"$@"; echo $? >"$0.new"; mv "$0.new" "$0"`, m.status,
	}, command...)...)
	return m
}

func (m *terminal) run(args ...string) (string, error) {
	cmd := exec.Command("tmux", append([]string{"-u", "-f", "/dev/null", "-S", m.socket}, args...)...)
	cmd.Env = m.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return string(out), err
}

func (m *terminal) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.run(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// lines returns what is on the screen.
func (m *terminal) lines(t *testing.T, flags ...string) []string {
	t.Helper()
	out := m.must(t, append([]string{"capture-pane", "-p"}, flags...)...)
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
}

// waitFor waits until the screen is as it should be.
func (m *terminal) waitFor(t *testing.T, what string, done func(lines []string) bool) {
	t.Helper()
	var lines []string
	defer func() {
		if t.Failed() {
			t.Logf("the screen is\n%s", strings.Join(lines, "\n"))
		}
	}()
	waitFor(t, what, func() bool {
		lines = m.lines(t)
		return done(lines)
	})
}

// waitText waits until a text is on the screen.
func (m *terminal) waitText(t *testing.T, text string) {
	t.Helper()
	m.waitFor(t, "the text "+text, func(lines []string) bool { return strings.Contains(strings.Join(lines, "\n"), text) })
}

func (m *terminal) keys(t *testing.T, keys ...string) {
	t.Helper()
	m.must(t, append([]string{"send-keys"}, keys...)...)
}

func (m *terminal) resize(t *testing.T, width, height int) {
	t.Helper()
	m.must(t, "resize-window", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height))
}

// wantEnd waits until the program has ended, with exit status 0.
func (m *terminal) wantEnd(t *testing.T) {
	t.Helper()
	waitFor(t, "the program to end", func() bool {
		_, err := os.Stat(m.status)
		return err == nil
	})
	if got := strings.TrimSpace(readFile(t, m.status)); got != "0" {
		t.Errorf("exit status %s\n%s", got, strings.Join(m.lines(t), "\n"))
	}
}
