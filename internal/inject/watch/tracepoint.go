// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// childrenOfRuntimes matches the tasks that become the init of a container: those
// in a new pid namespace (0x20000000 is CLONE_NEWPID), and the last child of the
// code in C of runc, which names its processes runc:[1:CHILD] and so on. The kernel
// applies it, so that other forks of the host cost nothing.
const childrenOfRuntimes = `clone_flags & 0x20000000 || comm ~ "*:?1:CHILD?"`

// initialPIDNS is the inode number of the first pid namespace (PROC_PID_INIT_INO,
// include/linux/proc_ns.h).
const initialPIDNS = "pid:[4026531836]"

// newTasks returns the event that a runtime has made a process.
func newTasks() (*perfEvent, error) {
	// The tracepoint has the pid of the child in the first pid namespace.
	if ns, err := os.Readlink("/proc/self/ns/pid"); err != nil {
		return nil, err
	} else if ns != initialPIDNS {
		return nil, errors.New("this process is not in the first pid namespace")
	}
	id, format, err := tracepoint("task/task_newtask")
	if err != nil {
		return nil, err
	}
	offset, err := fieldOffset(format, "pid")
	if err != nil {
		return nil, err
	}
	e := &perfEvent{name: "tracepoint task_newtask", filter: childrenOfRuntimes, pid: offset, follow: true}
	e.attr.Type = unix.PERF_TYPE_TRACEPOINT
	e.attr.Config = id
	return e, nil
}

// newExecs returns the event that a process executes a program: on Linux 6.10 and
// later as it begins to, else when it has.
func newExecs() (*perfEvent, error) {
	var failed error
	for _, name := range []string{"sched_prepare_exec", "sched_process_exec"} {
		id, _, err := tracepoint("sched/" + name)
		if err == nil {
			e := &perfEvent{name: "tracepoint " + name}
			e.attr.Type = unix.PERF_TYPE_TRACEPOINT
			e.attr.Config = id
			return e, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// tracepoint returns the id of a tracepoint, GROUP/NAME, and its format. It mounts
// tracefs, attached nowhere, since the host need not have it mounted.
func tracepoint(name string) (id uint64, format string, err error) {
	root, err := mountTracefs()
	if err != nil {
		return 0, "", fmt.Errorf("tracefs: %w", err)
	}
	defer unix.Close(root)
	text, err := readAt(root, "events/"+name+"/id")
	if err != nil {
		return 0, "", err
	}
	if id, err = strconv.ParseUint(strings.TrimSpace(text), 10, 32); err != nil {
		return 0, "", fmt.Errorf("tracepoint %s: %w", name, err)
	}
	format, err = readAt(root, "events/"+name+"/format")
	return id, format, err
}

// mountTracefs makes a detached mount of tracefs (Linux 5.2).
func mountTracefs() (int, error) {
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return fd, nil
}

// readAt reads a file below a directory.
func readAt(dir int, name string) (string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<16))
	return string(text), err
}

// fieldOffset returns the offset of a field of four bytes in the raw data of a
// tracepoint, from the text of its format file.
func fieldOffset(format, field string) (int, error) {
	for line := range strings.Lines(format) {
		decl, rest, ok := strings.Cut(strings.TrimSpace(line), ";")
		words := strings.Fields(decl)
		if !ok || len(words) < 2 || !strings.HasPrefix(decl, "field:") || words[len(words)-1] != field {
			continue
		}
		var offset, size int
		if _, err := fmt.Sscanf(strings.TrimSpace(rest), "offset:%d; size:%d;", &offset, &size); err != nil {
			return 0, fmt.Errorf("field %s: %w", field, err)
		}
		if size != 4 || offset <= 0 || offset > 1<<12 {
			return 0, fmt.Errorf("field %s: offset %d, size %d", field, offset, size)
		}
		return offset, nil
	}
	return 0, fmt.Errorf("no field %s", field)
}
