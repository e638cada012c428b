// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// calls counts the system calls of the daemons for one cycle of each file, and
// tells their memory.
func (b *bench) calls() error {
	c, err := b.container("calls", 1)
	if err != nil {
		return err
	}
	defer c.stop()
	b.section("System calls of the daemon", "For one open, read, read (end), close, reads and writes of /dev/fuse included; by strace, without those of Go's scheduler and without futex(2).")
	t := newTable("file", "floor", "vprocfs", "LXCFS")
	for _, file := range b.served() {
		row := []string{file}
		for _, name := range []string{floor, vprocfs, lxcfs} {
			p := b.find(name)
			if p == nil {
				row = append(row, "-")
				continue
			}
			n, err := b.countCalls(c, p, file)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", file, p.name, err)
			}
			row = append(row, fmt.Sprintf("%.1f", n))
		}
		t.row(row...)
		b.meter.step()
	}
	b.report.WriteString(t.String())
	b.section("Memory and descriptors", "After the measurements above.")
	t = newTable("daemon", "processes", "RSS KiB", "of that anonymous", "threads", "descriptors")
	for _, name := range []string{floor, vprocfs, lxcfs} {
		if p := b.find(name); p != nil {
			t.row(p.name, strconv.Itoa(len(p.tree())), strconv.Itoa(p.status("VmRSS")), strconv.Itoa(p.status("RssAnon")), strconv.Itoa(p.status("Threads")), strconv.Itoa(p.descriptors()))
		}
	}
	b.report.WriteString(t.String())
	return nil
}

// countCalls returns the least of some rounds: what disturbs only adds.
func (b *bench) countCalls(c *container, p *peer, file string) (float64, error) {
	const rounds, each = 5, 20
	if _, err := c.ask("cycle", 20, p.path(file)); err != nil {
		return 0, err
	}
	best := 0.0
	for range rounds {
		n, err := straced(b.dir, p.tree(), func() error {
			_, err := c.ask("cycle", each, p.path(file))
			return err
		})
		if err != nil {
			return 0, err
		}
		if each := float64(n) / each; best == 0 || each < best {
			best = each
		}
	}
	return best, nil
}

// sources returns the files that vprocfs reads to make one that has been read before.
func (b *bench) sources(c *container, file string) ([]string, error) {
	p := b.find(vprocfs)
	read := func() error {
		_, err := c.ask("cycle", 1, p.path(file))
		return err
	}
	for range 3 {
		if err := read(); err != nil {
			return nil, err
		}
	}
	text, err := strace(b.dir, p.tree(), []string{"-y", "-e", "trace=pread64"}, read)
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range strings.Lines(text) {
		// 123 pread64(7</proc/meminfo>, "...", 8192, 0) = 1475
		_, rest, ok := strings.Cut(line, "pread64(")
		_, rest, ok2 := strings.Cut(rest, "<")
		path, _, ok3 := strings.Cut(rest, ">")
		if ok && ok2 && ok3 && filepath.IsAbs(path) && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// straced counts the system calls of processes while work runs.
func straced(dir string, pids []int, work func() error) (int, error) {
	text, err := strace(dir, pids, []string{"-c", "-U", "calls,name"}, work)
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		switch f[1] {
		case "total", "futex", "nanosleep", "epoll_pwait", "sched_yield", "tgkill", "getpid", "rt_sigreturn", "restart_syscall":
			continue
		}
		if k, err := strconv.Atoi(f[0]); err == nil {
			n += k
		}
	}
	return n, nil
}

// strace returns what strace(1) writes of processes while work runs.
func strace(dir string, pids []int, options []string, work func() error) (string, error) {
	out := filepath.Join(dir, "strace")
	args := slices.Concat([]string{"-f", "-o", out}, options)
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	cmd := exec.Command("strace", args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	// "strace: Process N attached", one for each, and more than one at a time.
	buf := make([]byte, 4096)
	for attached := 0; attached < len(pids); {
		n, err := stderr.Read(buf)
		if err != nil {
			return "", fmt.Errorf("strace: %w", err)
		}
		attached += strings.Count(string(buf[:n]), " attached")
	}
	go func() {
		for {
			if _, err := stderr.Read(buf); err != nil {
				return
			}
		}
	}()
	time.Sleep(50 * time.Millisecond)
	workErr := work()
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		return "", err
	}
	_ = cmd.Wait() // says that it was interrupted
	if workErr != nil {
		return "", workErr
	}
	text, err := os.ReadFile(out)
	return string(text), err
}
