// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// peer is one of those that are compared: where its files are, and its daemon.
type peer struct {
	name string
	dir  string // of its proc; /proc for the kernel
	cmd  *exec.Cmd
	log  bytes.Buffer
	// ended is closed when the daemon has ended.
	ended chan struct{}
}

// The names of the peers.
const (
	native  = "kernel"
	floor   = "floor"
	vprocfs = "vprocfs"
	walking = "vprocfs --init-pid=parents"
	forking = "vprocfs --init-pid=fork"
	lxcfs   = "LXCFS"
	older   = "older vprocfs"
	second  = "vprocfs, second daemon"
)

// path is where the peer has a file.
func (p *peer) path(file string) string {
	if p.name == floor {
		file = "uptime" // all are alike
	}
	return filepath.Join(p.dir, file)
}

// startPeers starts the floor, vprocfs, and LXCFS where that is installed.
func (b *bench) startPeers() error {
	b.peers = []*peer{{name: native, dir: "/proc"}}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	start := func(name, mount string, cmd *exec.Cmd) error {
		p := &peer{name: name, dir: filepath.Join(mount, "proc"), cmd: cmd}
		if err := p.start(mount); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.peers = append(b.peers, p)
		return nil
	}
	at := func(name string) string { return filepath.Join(b.dir, name) }
	// As vprocfs does by itself, so that files are compared and not priorities.
	nice := func(command ...string) *exec.Cmd {
		return exec.Command("nice", slices.Concat([]string{"-n", "-10"}, command)...)
	}
	cmd := nice(self, at("floor"))
	cmd.Env = append(os.Environ(), roleEnv+"=floor")
	if err := start(floor, at("floor"), cmd); err != nil {
		return err
	}
	if err := start(vprocfs, at("vprocfs"), exec.Command(b.binary, "serve", at("vprocfs"))); err != nil {
		return err
	}
	for name, method := range map[string]string{walking: "parents", forking: "fork"} {
		if err := start(name, at(method), exec.Command(b.binary, "serve", "--init-pid="+method, at(method))); err != nil {
			return err
		}
	}
	if b.old != "" {
		if err := start(older, at("older"), exec.Command(b.old, "serve", at("older"))); err != nil {
			return err
		}
	}
	if slices.Contains(b.parts, partOld) {
		if err := start(second, at("second"), exec.Command(b.binary, "serve", at("second"))); err != nil {
			return err
		}
	}
	bin, err := exec.LookPath("lxcfs")
	if errors.Is(err, exec.ErrNotFound) {
		b.meter.say("LXCFS is not installed: measuring without it")
		return nil
	}
	if err != nil {
		return err
	}
	// With all that vprocfs does by default: load averages and CPU views.
	return start(lxcfs, at("lxcfs"), nice(bin, "-f", "-l", "--enable-cfs", "--enable-pidfd", "-p", at("lxcfs.pid"), at("lxcfs")))
}

func (p *peer) start(mount string) error {
	if err := os.Mkdir(mount, 0o755); err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.ended = make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // its ProcessState says the same
		close(p.ended)
	}()
	for end := time.Now().Add(startPatience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended: %s\n%s", p.cmd, p.cmd.ProcessState, &p.log)
		default:
		}
		var st unix.Statfs_t
		if unix.Statfs(mount, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC {
			return nil
		}
	}
	return fmt.Errorf("%s: not mounted after %s\n%s", p.cmd, startPatience, &p.log)
}

func (p *peer) stop() {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(unix.SIGTERM) // the namespaces end anyway
	}
}

// find returns a peer by its name, nil where it is not there.
func (b *bench) find(name string) *peer {
	for _, p := range b.peers {
		if p.name == name {
			return p
		}
	}
	return nil
}

// paced are the peers of which many containers read all the time.
func (b *bench) paced() []*peer {
	return slices.DeleteFunc(slices.Clone(b.peers), func(p *peer) bool {
		return slices.Contains([]string{forking, walking, second}, p.name)
	})
}

// main are the peers that serve files in the ordinary way.
func (b *bench) main() (peers []*peer) {
	for _, p := range b.peers {
		if !slices.Contains([]string{forking, walking, older, second}, p.name) {
			peers = append(peers, p)
		}
	}
	return peers
}

// tree returns the daemon's process and all below it.
func (p *peer) tree() []int {
	if p.cmd == nil {
		return nil
	}
	pids := []int{p.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		if err != nil {
			continue
		}
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err != nil {
				continue // a thread that has ended
			}
			for _, f := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(f); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// cpu returns the CPU time that the daemon's threads have used, of those that
// still live: field 1 of /proc/PID/task/TID/schedstat.
func (p *peer) cpu() (total time.Duration) {
	for _, pid := range p.tree() {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			continue
		}
		for _, task := range tasks {
			var ns int64
			text, err := os.ReadFile(task)
			if err != nil {
				continue
			}
			if _, err := fmt.Sscan(string(text), &ns); err == nil {
				total += time.Duration(ns)
			}
		}
	}
	return total
}

// status sums a number of /proc/PID/status over the daemon's processes.
func (p *peer) status(key string) (sum int) {
	for _, pid := range p.tree() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == key+":" {
				n, _ := strconv.Atoi(f[1]) // the kernel's numbers are numbers
				sum += n
			}
		}
	}
	return sum
}

// descriptors counts the daemon's open files.
func (p *peer) descriptors() (n int) {
	for _, pid := range p.tree() {
		if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
			n += len(entries)
		}
	}
	return n
}

// pin keeps the daemon on one CPU, with all threads that it has; those that it
// starts inherit it. With release it may run on all again.
func (p *peer) pin(release bool) error {
	var set unix.CPUSet
	set.Set(0)
	if release {
		for cpu := range 1024 {
			set.Set(cpu)
		}
	}
	for _, pid := range p.tree() {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err == nil {
				err = unix.SchedSetaffinity(tid, &set)
			}
			if err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}

// constant is a Source whose files always say the same: what any content costs at
// least through this loop.
type constant struct{}

func (constant) Append(dst []byte, _ fs.NodeID, _ *fs.Turn) ([]byte, error) {
	return append(dst, "350735.47 234388.90\n"...), nil
}

func (constant) Owner(fs.Caller) uint64 { return 0 }

// floorNodes is a tree with one file of /proc.
func floorNodes() []fs.Node {
	return []fs.Node{
		{ID: fs.NodeRoot, Mode: unix.S_IFDIR | 0o555},
		{ID: 2, Path: "proc", Mode: unix.S_IFDIR | 0o555},
		{ID: 16, Path: "proc/uptime", Mode: unix.S_IFREG | 0o444, Bound: 4096},
	}
}

// serveFloor serves constant content at dir until SIGTERM.
func serveFloor(dir string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	conn, err := fs.Mount(dir, fs.MountOptions{})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- fs.NewServer(conn, constant{}, fs.ServerOptions{Nodes: floorNodes()}).Serve() }()
	select {
	case err := <-served:
		return err
	case <-signals:
		return fs.Unmount(dir)
	}
}
