package host

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// BootOffset returns how far CLOCK_BOOTTIME is ahead in the time namespace that the
// children of process pid ("self" or a number) are in: PROC/PID/timens_offsets
// (time_namespaces(7)). It is 0 on kernels without time namespaces.
func BootOffset(proc, pid string) (time.Duration, error) {
	path := proc + "/" + pid + "/timens_offsets"
	text, err := held.ReadAt([]byte(path+"\x00"), nil)
	if err == unix.ENOENT {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	offset, ok := parseBootOffset(text)
	if !ok {
		return 0, fmt.Errorf("%s: no offset of the boot clock in %q", path, text[:min(len(text), 200)])
	}
	return offset, nil
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

// parseBootOffset finds the line "boottime SECONDS NANOSECONDS". Only the seconds
// can be negative.
func parseBootOffset(text []byte) (time.Duration, bool) {
	for len(text) > 0 {
		var line, f []byte
		line, text = scan.Line(text)
		if f, line = scan.Field(line); string(f) != "boottime" {
			continue
		}
		f, line = scan.Field(line)
		sign := int64(1)
		if len(f) > 0 && f[0] == '-' {
			sign, f = -1, f[1:]
		}
		seconds, n := scan.Uint(f)
		f, _ = scan.Field(line)
		nanos, m := scan.Uint(f)
		// The kernel allows half of what fits into 64 bits (KTIME_SEC_MAX / 2).
		if n == 0 || m == 0 || seconds > 1<<33 || nanos >= uint64(time.Second) {
			return 0, false
		}
		return time.Duration(sign*int64(seconds)*int64(time.Second) + int64(nanos)), true
	}
	return 0, false
}
