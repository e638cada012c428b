package host

import (
	"bytes"
	"fmt"
	"strconv"

	"vprocfs/procvirt/held"
)

// EffectiveCapabilities returns the effective capabilities of process pid, a bit
// for each, in the user namespace that it is in: CapEff of PROC/PID/status
// (proc_pid_status(5)).
func EffectiveCapabilities(proc string, pid int) (uint64, error) {
	path := fmt.Sprintf("%s/%d/status", proc, pid)
	text, err := held.ReadAt([]byte(path+"\x00"), nil)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	caps, ok := parseCapabilities(text)
	if !ok {
		return 0, fmt.Errorf("%s: no effective capabilities", path)
	}
	return caps, nil
}

// parseCapabilities finds the line. The name of the command, which comes before
// it, cannot imitate it: the kernel escapes its newlines.
func parseCapabilities(text []byte) (uint64, bool) {
	_, rest, ok := bytes.Cut(text, []byte("\nCapEff:\t"))
	if !ok {
		return 0, false
	}
	value, _, ok := bytes.Cut(rest, []byte("\n"))
	caps, err := strconv.ParseUint(string(value), 16, 64)
	return caps, ok && err == nil
}
