// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// table is a table in Markdown, its columns padded so that it reads well as text.
type table struct{ rows [][]string }

func newTable(heads ...string) *table { return &table{[][]string{heads}} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	widths := make([]int, len(t.rows[0]))
	for _, r := range t.rows {
		for i, c := range r {
			widths[i] = max(widths[i], len(c))
		}
	}
	var b strings.Builder
	line := func(cells []string, pad string) {
		for i, c := range cells {
			fmt.Fprintf(&b, "| %s%s ", c, strings.Repeat(pad, widths[i]-len(c)))
		}
		b.WriteString("|\n")
	}
	line(t.rows[0], " ")
	line(make([]string, len(widths)), "-")
	for _, r := range t.rows[1:] {
		line(r, " ")
	}
	return b.String()
}

// heading says what machine, what versions and what command.
func (b *bench) heading() {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // cannot fail
	command := "make bench"
	if slices.Contains(b.parts, partScale) {
		command = "make bench-scale"
	}
	f := &b.figures
	f.Made = fmt.Sprintf("`%s` on %s", command, time.Now().UTC().Format("2006-01-02"))
	f.Machine = fmt.Sprintf("%d CPUs (%s), Linux %s, %s", runtime.NumCPU(), cpuModel(), unix.ByteSliceToString(uts.Release[:]), runtime.Version())
	f.Vprocfs, f.LXCFS = said("git", "log", "-1", "--format=commit %h"), said("lxcfs", "--version")
	fmt.Fprintf(&b.report, "# Benchmarks\n\nMade by %s; do not edit. Times are this machine's, and this minute's: only ratios mean something elsewhere.\n\n", f.Made)
	fmt.Fprintf(&b.report, "- %s\n- vprocfs: %s\n- LXCFS: %s\n", f.Machine, f.Vprocfs, f.LXCFS)
	fmt.Fprintf(&b.report, "- %d rounds of %d operations; floor: a constant file through vprocfs's loop; all three daemons at nice -10, to which vprocfs sets itself\n", b.rounds, b.each)
}

// said is the first line of what a command says of itself.
func said(command ...string) string {
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return "not known"
	}
	first, _, _ := strings.Cut(strings.Trim(strings.TrimSpace(string(out)), `"`), "\n")
	return first
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func (b *bench) section(title, text string) {
	fmt.Fprintf(&b.report, "\n## %s\n\n%s\n\n", title, text)
}
