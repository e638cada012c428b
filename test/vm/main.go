// SPDX-License-Identifier: Apache-2.0

// Command vm runs a program on another kernel: it boots a Debian cloud kernel in QEMU, with a chosen
// cgroup layout, runs a static program as root in the guest, passes its output on and exits with its status.
//
//	go run ./test/vm -suite trixie -cgroup v2 -file build/vprocfs -- build/procvirt.test -test.v
//	go run ./test/vm -matrix -- build/procvirt.test
//	go run ./test/vm -matrix -tests
//
// README.md tells what it needs and what the guest looks like.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Exit statuses of the runner itself. A guest program may exit with the same number; only then
// standard error has no line that starts with "vm: ".
const (
	exitUsage   = 2
	exitTimeout = 124
	exitFailed  = 125 // no mirror, no qemu, or a guest that died
)

// host is a kernel and a cgroup layout to run on.
type host struct {
	suite  string // Debian suite whose newest cloud kernel is booted
	cgroup string // v1, v2 or hybrid
}

// name is the host's in names of files.
func (h host) name() string { return h.suite + "-" + h.cgroup }

// matrix is what -matrix runs on: the oldest kernel supported, the layouts that hosts have, and the newest
// kernel there is. Kernels after 6.1 have no memory and cpuset controllers for v1 in Debian.
func matrix() []host {
	return []host{
		{"bullseye-security", "v2"}, // 5.10
		{"bullseye-security", "v1"},
		{"bookworm", "v2"}, // 6.1
		{"bookworm", "hybrid"},
		{"trixie", "v2"},           // 6.12
		{"trixie-backports", "v2"}, // 7.x
	}
}

// parseHosts reads a list of SUITE:LAYOUT.
func parseHosts(list string) (hosts []host, err error) {
	for s := range strings.SplitSeq(list, ",") {
		suite, layout, _ := strings.Cut(s, ":")
		if suite == "" || layout != "v1" && layout != "v2" && layout != "hybrid" {
			return nil, fmt.Errorf("%q is not SUITE:v1, SUITE:v2 or SUITE:hybrid", s)
		}
		hosts = append(hosts, host{suite, layout})
	}
	return hosts, nil
}

// config is a run: the host, what the guest gets and what it runs.
type config struct {
	host
	kernels string        // directory of the kernel cache
	work    string        // directory for the Debian root, test binaries and logs
	mirror  string        // Debian mirror, empty for apt's own
	cpus    int           // virtual CPUs
	nodes   int           // NUMA nodes that share CPUs and memory equally
	memory  int           // MiB
	swap    int           // MiB of swap on zram, 0 for none
	files   []string      // HOST[:GUEST] files and directories to carry
	disk    string        // ext4 image to mount on /data, or the root with debian; writes to it are lost
	debian  bool          // the guest's root is Debian's, and not busybox alone
	systemd bool          // and its PID 1 is systemd
	engines bool          // and it has container engines
	out     string        // directory that gets the guest's /out
	modules string        // further kernel modules to load
	append  string        // more kernel command line
	accel   string        // QEMU accelerator
	timeout time.Duration // of the guest, from boot to power off
	command []string      // program and its arguments
}

// files collects a flag that may be given more than once.
type files []string

func (f *files) String() string     { return strings.Join(*f, " ") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c config
	fs := flag.NewFlagSet("vm", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintln(stderr, "usage: vm [flags] -- PROGRAM [ARGS]\nA PROGRAM with a slash is a static binary or a script of this machine, another one is a command of the guest.")
		fs.PrintDefaults()
	}
	fs.StringVar(&c.suite, "suite", "trixie", "Debian `suite` of the kernel")
	fs.StringVar(&c.cgroup, "cgroup", "v2", "cgroup `layout`: v1, v2 or hybrid")
	all := fs.Bool("matrix", false, "run on every kernel and layout of the matrix, instead of -suite and -cgroup")
	list := fs.String("hosts", "", "run on these hosts, `SUITE:LAYOUT,...`, instead of -suite and -cgroup")
	jobs := fs.Int("jobs", 2, "guests at once with -matrix or -hosts")
	fs.StringVar(&c.kernels, "kernels", "build/kernels", "`directory` that caches the kernels; remove it to fetch newer ones")
	fs.StringVar(&c.mirror, "mirror", "", "Debian mirror `URL` that ends in /debian (default: the one apt uses)")
	fs.IntVar(&c.cpus, "cpus", 2, "CPUs of the guest")
	fs.IntVar(&c.nodes, "nodes", 1, "NUMA nodes of the guest, each with as many CPUs and as much memory as the others")
	fs.IntVar(&c.memory, "memory", 1024, "memory of the guest in `MiB`")
	fs.IntVar(&c.swap, "swap", 0, "swap of the guest, on zram, in `MiB`")
	fs.Var((*files)(&c.files), "file", "`HOST[:GUEST]` file or directory to carry to /t, or to GUEST; may be given more than once")
	fs.BoolVar(&c.debian, "debian", false, "give the guest a Debian root with the programs of debian.go; the first time this makes an image, as root")
	fs.BoolVar(&c.systemd, "systemd", false, "with a Debian root whose PID 1 is systemd; with -tests, run the packages of tests.go that are about it")
	fs.BoolVar(&c.engines, "engines", false, "with -systemd, have Docker, containerd, LXC and nspawn in the root")
	fs.StringVar(&c.work, "work", "build/vm", "`directory` for the image of the Debian root, and for binaries and logs of -tests")
	tests := fs.Bool("tests", false, "run the project's tests on a Debian root; arguments name packages of tests.go (default: all)")
	pattern := fs.String("run", "", "with -tests, run only tests that match the `regexp`")
	fs.StringVar(&c.disk, "disk", "", "ext4 `image` to mount on /data; what the guest writes to it is lost")
	fs.StringVar(&c.out, "out", "", "`directory` that gets what the guest leaves in /out (with -matrix: a directory each below it)")
	fs.StringVar(&c.modules, "modules", "", "kernel `modules` to load besides fuse, with spaces between")
	fs.StringVar(&c.append, "append", "", "more kernel command `line`")
	fs.StringVar(&c.accel, "accel", "tcg", "QEMU `accelerator`: tcg, or kvm where it works")
	fs.DurationVar(&c.timeout, "timeout", 3*time.Minute, "`limit` for the guest, from boot to power off")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	c.command = fs.Args()
	c.debian = c.debian || c.systemd || *tests
	switch {
	case len(c.command) == 0 && !*tests:
		fmt.Fprintln(stderr, "vm: no program to run (see -help)")
		return exitUsage
	case c.cgroup != "v1" && c.cgroup != "v2" && c.cgroup != "hybrid":
		fmt.Fprintf(stderr, "vm: -cgroup %s: must be v1, v2 or hybrid\n", c.cgroup)
		return exitUsage
	case *jobs < 1 || c.cpus < 1 || c.memory < 1 || c.swap < 0:
		fmt.Fprintln(stderr, "vm: -jobs, -cpus and -memory must be at least 1, -swap at least 0")
		return exitUsage
	case c.nodes < 1 || c.cpus%c.nodes != 0 || c.memory%c.nodes != 0:
		fmt.Fprintf(stderr, "vm: -nodes %d: does not divide %d CPUs and %d MiB equally\n", c.nodes, c.cpus, c.memory)
		return exitUsage
	case c.systemd && c.cgroup != "v2":
		fmt.Fprintln(stderr, "vm: -systemd: it makes its own cgroup layout, v2")
		return exitUsage
	case c.engines && !c.systemd:
		fmt.Fprintln(stderr, "vm: -engines needs -systemd")
		return exitUsage
	case c.disk != "" && c.debian:
		fmt.Fprintln(stderr, "vm: -disk: the Debian root is the disk")
		return exitUsage
	}
	hosts := []host{c.host}
	if *all {
		hosts = matrix()
	} else if *list != "" {
		var err error
		if hosts, err = parseHosts(*list); err != nil {
			fmt.Fprintf(stderr, "vm: -hosts %s: %v\n", *list, err)
			return exitUsage
		}
	}
	if *tests {
		return runTests(ctx, c, hosts, *jobs, *pattern, stdout, stderr)
	}
	if c.debian {
		var err error
		if c.disk, err = debianImage(ctx, c.work, c.mirror, c.engines); err != nil {
			fmt.Fprintf(stderr, "vm: Debian root: %v\n", err)
			return exitFailed
		}
	}
	if len(hosts) > 1 {
		return runMatrix(ctx, c, hosts, *jobs, stdout, stderr)
	}
	return report(stderr, c.host)(boot(ctx, c, stdout))
}

// report turns the result of boot into an exit status, and an error into one line on w.
func report(w io.Writer, h host) func(int, error) int {
	return func(status int, err error) int {
		switch {
		case err == nil:
			return status
		case errors.Is(err, context.DeadlineExceeded):
			status = exitTimeout
		default:
			status = exitFailed
		}
		fmt.Fprintf(w, "vm: %s %s: %v\n", h.suite, h.cgroup, err)
		return status
	}
}

// runMatrix runs c on each host, jobs at a time, and prints each guest's output in one piece when it is done. The status
// is 0 when every guest's was, and 1 otherwise.
func runMatrix(ctx context.Context, c config, hosts []host, jobs int, stdout, stderr io.Writer) int {
	return eachHost(hosts, jobs, func(h host, print *sync.Mutex) int {
		c := c
		c.host = h
		if c.out != "" {
			c.out = filepath.Join(c.out, h.name())
		}
		var output, failure bytes.Buffer
		start := time.Now()
		status := report(&failure, h)(boot(ctx, c, &output))
		print.Lock()
		defer print.Unlock()
		fmt.Fprintf(stdout, "=== %s %s\n%s", h.suite, h.cgroup, output.Bytes())
		_, _ = stderr.Write(failure.Bytes())
		fmt.Fprintf(stdout, "--- %s %s: exit status %d, %.1f s\n", h.suite, h.cgroup, status, time.Since(start).Seconds())
		return status
	})
}

// eachHost calls f for each host, jobs at a time, and returns 0 when every call did, and 1 otherwise. A call holds the
// mutex to print.
func eachHost(hosts []host, jobs int, f func(h host, print *sync.Mutex) int) int {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		slots  = make(chan struct{}, jobs)
		failed atomic.Bool
	)
	for _, h := range hosts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if f(h, &mu) != 0 {
				failed.Store(true)
			}
		})
	}
	wg.Wait()
	if failed.Load() {
		return 1
	}
	return 0
}
