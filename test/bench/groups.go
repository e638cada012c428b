// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// groups are the control groups that the containers of a run are in: a directory
// of its own in each hierarchy that has one of the controllers.
type groups struct {
	dirs map[string]bool // by path; true is v2
	made []string        // in the order they were made
}

func controllers() []string { return []string{"cpu", "cpuacct", "cpuset", "memory", "blkio"} }

// newGroups makes the directory that all others go into.
func newGroups() (*groups, error) {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	g := &groups{dirs: map[string]bool{}}
	name := "vprocfs-bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	for line := range strings.Lines(string(membership)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		names := strings.Split(f[1], ",")
		v2 := f[1] == ""
		if !v2 && !slices.ContainsFunc(controllers(), func(c string) bool { return slices.Contains(names, c) }) {
			continue
		}
		mount := mountOf(string(mounts), names[0], v2)
		if mount == "" {
			continue
		}
		parent := filepath.Join(mount, f[2])
		if v2 {
			// No group with processes may give its children controllers.
			for parent != mount && !empty(parent) {
				parent = filepath.Dir(parent)
			}
		}
		dir := filepath.Join(parent, name)
		if err := g.mkdir(dir, v2); err != nil {
			return nil, errors.Join(err, g.remove())
		}
		g.dirs[dir] = v2
	}
	return g, nil
}

func empty(group string) bool {
	procs, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	return err == nil && len(procs) == 0
}

func mountOf(mounts, controller string, v2 bool) string {
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if v2 && f[2] == "cgroup2" || !v2 && f[2] == "cgroup" && slices.Contains(strings.Split(f[3], ","), controller) {
			return f[1]
		}
	}
	return ""
}

// mkdir makes one group, with all that its parent can give it.
func (g *groups) mkdir(dir string, v2 bool) error {
	parent := filepath.Dir(dir)
	if v2 {
		list, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, c := range strings.Fields(string(list)) {
			if slices.Contains(append(controllers(), "io"), c) {
				if err := put(filepath.Join(parent, "cgroup.subtree_control"), "+"+c); err != nil {
					return err
				}
			}
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	g.made = append(g.made, dir)
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if v2 {
			break
		}
		text, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, os.ErrNotExist) {
			continue // not the hierarchy of cpusets
		}
		if err == nil {
			err = put(filepath.Join(dir, file), strings.TrimSpace(string(text)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add makes a container's group: 256 MiB, one CPU of time, at depth levels below
// the run's own.
func (g *groups) add(name string, depth int) ([]string, error) {
	var dirs []string
	for dir, v2 := range g.dirs {
		for range depth {
			dir = filepath.Join(dir, name)
			if err := g.mkdir(dir, v2); err != nil {
				return nil, err
			}
		}
		for file, value := range map[string]string{
			"memory.limit_in_bytes": "268435456", "memory.max": "268435456",
			"cpu.cfs_quota_us": "100000", "cpu.max": "100000 100000",
		} {
			if err := put(filepath.Join(dir, file), value); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// put writes to a control file that exists.
func put(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func enter(dirs []string, pid int) error {
	for _, dir := range dirs {
		if err := put(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move %d: %w", pid, err)
		}
	}
	return nil
}

// remove removes all groups. Their processes have been ended by then; the kernel
// takes a moment to let go of them.
func (g *groups) remove() error {
	var all error
	for _, dir := range slices.Backward(g.made) {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := unix.Rmdir(dir)
			if err == unix.EBUSY && time.Now().Before(end) {
				continue
			}
			if err != nil && err != unix.ENOENT {
				all = errors.Join(all, fmt.Errorf("remove %s: %w", dir, err))
			}
			break
		}
	}
	g.made = nil
	return all
}
