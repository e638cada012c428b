// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"vprocfs/internal/procpid"
	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// Threads is what a count of the threads of a group and all below it found.
type Threads struct {
	// Running are those that run or want to (R), Blocked those in
	// uninterruptible sleep (D), Total all that live.
	Running, Blocked, Total int
	// Newest is the id of the one that began last.
	Newest int
	// Looks is how many files and directories were read.
	Looks int
}

// ThreadCounter counts threads, reusing its buffers. Not safe for concurrent use.
//
// Each thread costs the reading of one file. CGROUPSTATS_CMD_GET of taskstats, which
// counts the threads of a v1 group by state in one call, does not count those in killable
// sleep (cgroupstats_build, kernel/cgroup/cgroup-v1.c), such as the parent in vfork(2):
// they are D in /proc and count in the kernel's load.
type ThreadCounter struct {
	proc string
	path []byte
	list []byte
	stat []byte
	dirs []string
}

// maxGroups bounds the groups of one count. A systemd has some dozens.
const maxGroups = 1024

// maxTID is how long an entry in a list of threads can be.
const maxTID = len("4194304\n")

// NewThreadCounter makes a counter that looks at the threads below proc.
func NewThreadCounter(proc string) *ThreadCounter {
	return &ThreadCounter{
		proc: proc, path: make([]byte, 0, 256),
		// The kernel hands a list out by pages.
		list: make([]byte, 0, 3*4096), stat: make([]byte, 0, 4096),
	}
}

// Usage returns the CPU time that a group and all below it have used, in nanoseconds
// that wrap around at 64 bits, as the kernel's do. p is the place of CPUAcct. On v2 it is
// a multiple of 1000. It returns ErrRemoved if the group is gone.
func (t *ThreadCounter) Usage(p Place) (uint64, error) {
	name := "/cpuacct.usage"
	if p.V2 {
		name = "/cpu.stat"
	}
	t.path = appendPath(t.path[:0], p.Dirs[0], name)
	text, err := held.ReadAt(t.path, t.stat)
	if err != nil {
		return 0, removed(p.Dirs[0]+name, err)
	}
	line, _ := scan.Line(text)
	unit, number := uint64(1), line
	if p.V2 {
		unit, number = 1000, bytes.TrimPrefix(line, []byte("usage_usec "))
	}
	v, n := scan.Uint(number)
	if n == 0 {
		return 0, fmt.Errorf("%s%s: no CPU time in %q", p.Dirs[0], name, line[:min(len(line), 40)])
	}
	return v * unit, nil
}

// removed gives what the kernel says of a removed group its name.
func removed(path string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("read %s: %w", path, ErrRemoved)
	}
	return fmt.Errorf("read %s: %w", path, err)
}

// Count looks at the threads of a group and of all below it, nearest first. It
// ends after about limit looks; what it did not get to does not count.
//
// last is the id that the host gave out last: ids above it are from before they
// began anew at the bottom. It returns ErrRemoved if the group is gone.
func (t *ThreadCounter) Count(p Place, last, limit int) (Threads, error) {
	var n Threads
	t.dirs = append(t.dirs[:0], p.Dirs[0])
	for i := 0; i < len(t.dirs) && n.Looks < limit; i++ {
		err := t.group(t.dirs[i], p.V2, last, limit, &n)
		if err != nil && i == 0 {
			return n, err
		}
	}
	clear(t.dirs[1:])
	return n, nil
}

// group counts the threads of one group and queues those below it.
func (t *ThreadCounter) group(dir string, v2 bool, last, limit int, n *Threads) error {
	name := "/tasks"
	if v2 {
		name = "/cgroup.threads"
	}
	n.Looks += 2
	t.path = appendPath(t.path[:0], dir, name)
	list, err := held.ReadRecordsAt(t.path, t.list, (limit+1)*maxTID)
	if err != nil {
		return removed(dir+name, err)
	}
	t.list = list
	for line := range scan.Lines(list) {
		if n.Looks >= limit {
			break
		}
		if tid, k := scan.Uint(line); k > 0 && k == len(line) && tid > 0 && tid < 1<<31 {
			n.Looks++
			// The file right below PROC/TID sums up the times of all threads of the
			// process first (do_task_stat, fs/proc/array.c).
			n.add(procpid.State(t.read(int(tid), "stat")), int(tid), last)
		}
	}
	t.below(dir)
	return nil
}

// add counts one thread.
func (n *Threads) add(state byte, tid, last int) {
	switch state {
	case 'Z', 'X', 0:
		return // dead, or gone
	case 'R':
		n.Running++
	case 'D':
		n.Blocked++
	}
	n.Total++
	if n.Newest == 0 || Newer(tid, n.Newest, last) {
		n.Newest = tid
	}
}

// Newer reports whether thread id a was given out after b, where last was the last
// one. The kernel counts up, and begins anew at the bottom when it is at the top.
func Newer(a, b, last int) bool {
	if (a <= last) != (b <= last) {
		return a <= last
	}
	return a > b
}

// below queues the groups below dir. Their number is the number of links of the
// directory, less its own two (kernfs_refresh_inode, fs/kernfs/inode.c): most
// groups have none and need not be read.
func (t *ThreadCounter) below(dir string) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Nlink == 2 {
		return
	}
	f, err := os.Open(dir)
	if err != nil {
		return // removed meanwhile
	}
	defer f.Close()
	for len(t.dirs) < maxGroups {
		entries, err := f.ReadDir(128)
		for _, e := range entries {
			if e.IsDir() && len(t.dirs) < maxGroups {
				t.dirs = append(t.dirs, dir+"/"+e.Name())
			}
		}
		if err != nil { // io.EOF, in the end
			return
		}
	}
}

// PID returns the id of a thread in the pid namespace level levels below the
// daemon's. It returns 0 if the thread is not in it, or is gone.
func (t *ThreadCounter) PID(tid, level int) int {
	for id := range procpid.StatusIDs(t.read(tid, "status"), "NSpid") {
		if level == 0 {
			return id
		}
		level--
	}
	return 0
}

// Level returns how many levels below the daemon's the innermost pid namespace of a
// thread is. It returns -1 if the thread is gone, or before Linux 4.1.
func (t *ThreadCounter) Level(tid int) int {
	level := -1
	for range procpid.StatusIDs(t.read(tid, "status"), "NSpid") {
		level++
	}
	return level
}

// read returns the text of PROC/TID/task/TID/NAME, nil if the thread is gone.
func (t *ThreadCounter) read(tid int, name string) []byte {
	t.path = append(t.path[:0], t.proc...)
	for _, dir := range [...]string{"/", "/task/"} {
		t.path = strconv.AppendInt(append(t.path, dir...), int64(tid), 10)
	}
	t.path = append(append(append(t.path, '/'), name...), 0)
	text, err := held.ReadAt(t.path, t.stat)
	if err != nil {
		return nil
	}
	return text
}

func appendPath(dst []byte, dir, name string) []byte {
	dst = append(dst, dir...)
	dst = append(dst, name...)
	return append(dst, 0)
}
