// SPDX-License-Identifier: Apache-2.0

// Command bench compares vprocfs with the kernel's own files, with a constant
// file that vprocfs's loop serves (the floor of FUSE), and with LXCFS where that
// is installed: in the same containers, on the same machine, in turns. It prints
// one table, in Markdown. README.md says what each line of it means.
//
// It needs root, strace, and a built vprocfs. All that it mounts and starts lives
// in namespaces of its own and ends with it.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// options are the command line.
type options struct {
	binary string
	old    string
	rounds int
	each   int
	out    string
	parts  []string
	spaces int
	storm  int
	scale  int
	period int
}

// The parts of a run.
const (
	partFiles    = "files"    // each file, one reader on one CPU
	partThreads  = "threads"  // many readers on all CPUs
	partCalls    = "calls"    // the daemons' system calls
	partNewcomer = "newcomer" // first reads of new pid namespaces
	partStorm    = "storm"    // many containers start at once
	partReach    = "reach"    // the 99th percentile by the number of containers that read all the time
	partScale    = "scale"    // many containers that read all the time
	partOld      = "old"      // against an older binary
)

func main() {
	err := run(os.Args[1:])
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode()) // it was inside that has said why
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// role says what a process of this program is to be; see the functions it leads to.
const roleEnv = "VPROCFS_BENCH_ROLE"

func run(args []string) error {
	switch role := os.Getenv(roleEnv); role {
	case "agent":
		return agent(os.Stdin, os.Stdout)
	case "floor":
		return serveFloor(args[0])
	case "":
	default:
		if len(args) > 0 && args[0] == compareCommand {
			return inside(args[1:], compareBinaries)
		}
		return inside(args, measure)
	}
	if len(args) > 0 {
		switch args[0] {
		case "plot":
			return plotCommand(args[1:])
		case compareCommand:
			return compareRevisions(args[1:])
		}
	}
	if _, err := parse(args); err != nil {
		return err
	}
	return inNamespaces(args)
}

func parse(args []string) (options, error) {
	var o options
	fl := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	fl.SortFlags = false
	fl.StringVar(&o.binary, "vprocfs", "build/vprocfs", "the binary to measure")
	fl.StringVar(&o.old, "old", "", "an older binary: measured too in the parts old and scale")
	fl.StringSliceVar(&o.parts, "parts", []string{partFiles, partThreads, partCalls, partNewcomer, partStorm}, "what to measure; also: reach, scale, and old with --old")
	fl.IntVar(&o.rounds, "rounds", 20, "alternating rounds of each measurement")
	fl.IntVar(&o.each, "each", 300, "operations in a round")
	fl.IntVar(&o.spaces, "namespaces", 1000, "pid namespaces that read for the first time, at most")
	fl.IntVar(&o.storm, "storm", 500, "containers that start at once")
	fl.IntVar(&o.scale, "scale", 1000, "containers of the part scale")
	fl.IntVar(&o.period, "seconds", 300, "how long the part scale lasts")
	fl.StringVar(&o.out, "out", "", "write the tables to this file too, and beside it the figures as JSON and plots of them as SVG")
	err := fl.Parse(args)
	switch {
	case err != nil:
		return o, err
	case fl.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", fl.Arg(0))
	case os.Geteuid() != 0:
		return o, errors.New("must be run as root")
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return o, err
	}
	if _, err := os.Stat(o.binary); err != nil {
		return o, fmt.Errorf("%w: run `make build` first", err)
	}
	if o.old == "" {
		return o, nil
	}
	if o.old, err = filepath.Abs(o.old); err != nil {
		return o, err
	}
	if _, err := os.Stat(o.old); err != nil {
		return o, err
	}
	return o, nil
}

// inNamespaces runs this program once more in a pid and a mount namespace of its
// own, so that LXCFS, which refuses to work where it may not trace pid 1, finds a
// pid 1 that it may, and so that nothing is left behind.
func inNamespaces(args []string) error {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleEnv+"=inside")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // an error says that it has ended
		}
	}()
	return cmd.Wait()
}

// inside does work, as pid 1 of its namespaces.
func inside(args []string, work func(b *bench, args []string) error) (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make all mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	dir, err := os.MkdirTemp("", "vprocfs-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	// What the daemons leave behind goes with this mount.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)) }()
	g, err := newGroups()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.remove()) }()

	b := &bench{dir: dir, groups: g, meter: newMeter(os.Stderr)}
	defer b.stop()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- work(b, args) }()
	select {
	case err := <-done:
		return errors.Join(err, covered("/proc/uptime"))
	case <-interrupted:
		return errors.New("interrupted")
	}
}

// covered returns an error if a file of the kernel is covered by a file of FUSE.
func covered(file string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(file, &st); err == nil && st.Type != unix.FUSE_SUPER_MAGIC {
		return nil
	}
	return fmt.Errorf("%s is not the kernel's any more: a vprocfs of this host has attached its files to the benchmark; end it, or give it --attach none", file)
}

// measure is the benchmark.
func measure(b *bench, args []string) error {
	var err error
	if b.options, err = parse(args); err != nil {
		return err
	}
	err = b.all()
	text := b.report.String()
	fmt.Print(text) // what there is
	if err != nil || b.out == "" {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(b.out, []byte(text), 0o644); err != nil {
		return err
	}
	return b.figures.write(b.out)
}

// bench is a run.
type bench struct {
	options
	dir    string
	groups *groups
	peers  []*peer
	agents sync.Map // of *container: all that were started
	report strings.Builder
	meter  *meter
	// figures are those of the report.
	figures figures
}

// part is a part of a run.
type part struct {
	name    string
	run     func() error
	steps   int
	nominal time.Duration // see stage
}

// allParts returns the parts in their order, with what they take where docs/benchmarks.md
// was made.
func (b *bench) allParts() []part {
	files := len(b.served())
	round := time.Duration(b.rounds) * time.Duration(b.each) * time.Microsecond
	containers := 21 + 100 + b.spaces
	paced := len(b.paced()) * min(b.period, peersPeriod)
	reach := len(b.reachCounts()) * len(b.paced()) * reachSeconds
	seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
	return []part{
		{partFiles, b.files, 2 * files, time.Duration(files) * round * 3 / 2},
		{partThreads, b.threads, 15, seconds(15 * b.rounds * 4 / 10)},
		{partCalls, b.calls, files, seconds(5 * files)},
		{partNewcomer, b.newcomers, containers, time.Duration(containers) * 40 * time.Millisecond},
		{partStorm, b.storms, 25, 25 * time.Duration(b.storm) * 5 * time.Millisecond},
		{partReach, b.reach, reach, seconds(reach + 30)},
		{partScale, b.scales, paced + b.period, seconds(paced + b.period + 60)},
		{partOld, b.againstOld, 3*files + 3, time.Duration(3*files+3) * round / 3},
	}
}

// all runs the parts.
func (b *bench) all() error {
	b.meter.say("starting the daemons")
	if err := b.startPeers(); err != nil {
		return err
	}
	b.heading()
	parts := slices.DeleteFunc(b.allParts(), func(p part) bool { return !slices.Contains(b.parts, p.name) })
	for _, p := range parts {
		b.meter.plan(p.name, p.steps, p.nominal)
	}
	for _, p := range parts {
		b.meter.enter(p.name)
		err := p.run()
		b.meter.leave()
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func (b *bench) stop() {
	b.agents.Range(func(c, _ any) bool { c.(*container).stop(); return true })
	for _, p := range b.peers {
		p.stop()
	}
}
