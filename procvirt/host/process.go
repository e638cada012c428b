// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/procpid"
	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// StartTime returns when process pid started, in nanoseconds on CLOCK_BOOTTIME, a
// whole number of ticks: field 22 of PROC/PID/stat.
func StartTime(proc string, pid int) (int64, error) {
	ticks, err := parse(proc, strconv.Itoa(pid), "stat", procpid.StartTime)
	return int64(min(ticks, 1<<62/NanosPerTick)) * NanosPerTick, err
}

// EffectiveCapabilities returns the effective capabilities of process pid, a bit
// for each, in the user namespace that it is in: CapEff of PROC/PID/status
// (proc_pid_status(5)).
func EffectiveCapabilities(proc string, pid int) (uint64, error) {
	return parse(proc, strconv.Itoa(pid), "status", procpid.Capabilities)
}

// BootOffset returns how far CLOCK_BOOTTIME is ahead in the time namespace that the
// children of process pid ("self" or a number) are in: PROC/PID/timens_offsets
// (time_namespaces(7)). It is 0 on kernels without time namespaces.
func BootOffset(proc, pid string) (time.Duration, error) {
	offset, err := parse(proc, pid, "timens_offsets", parseBootOffset)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return offset, err
}

// parse returns what f finds in the text of PROC/PID/NAME.
func parse[T any](proc, pid, name string, f func(text []byte) (T, bool)) (v T, err error) {
	path := proc + "/" + pid + "/" + name
	text, err := held.ReadAt([]byte(path+"\x00"), nil)
	if err != nil {
		return v, fmt.Errorf("read %s: %w", path, err)
	}
	v, ok := f(text)
	if !ok {
		return v, fmt.Errorf("cannot parse %s: %q", path, text[:min(len(text), 200)])
	}
	return v, nil
}

// parseBootOffset finds the line "boottime SECONDS NANOSECONDS". Only the seconds
// can be negative.
func parseBootOffset(text []byte) (time.Duration, bool) {
	for line := range scan.Lines(text) {
		clock, rest := scan.Field(line)
		if string(clock) != "boottime" {
			continue
		}
		s, rest := scan.Field(rest)
		ns, _ := scan.Field(rest)
		seconds, err := strconv.ParseInt(string(s), 10, 64)
		nanos, n := scan.Uint(ns)
		// The kernel allows half of what fits into 64 bits (KTIME_SEC_MAX / 2).
		if err != nil || n == 0 || seconds > 1<<33 || seconds < -1<<33 || nanos >= uint64(time.Second) {
			return 0, false
		}
		return time.Duration(seconds)*time.Second + time.Duration(nanos), true
	}
	return 0, false
}

// ShiftsBtime reports whether the kernel shifts the btime of /proc/stat, and the start
// times of processes, by the offset of the reader's time namespace, as it does from Linux
// 5.11 on. Linux 5.6 to 5.10 shift /proc/uptime only.
func ShiftsBtime() bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return true // it cannot fail
	}
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return err != nil || major > 5 || major == 5 && minor >= 11
}
