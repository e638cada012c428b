package host

import (
	"fmt"

	"vprocfs/internal/procpid"
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
	caps, ok := procpid.Capabilities(text)
	if !ok {
		return 0, fmt.Errorf("%s: no effective capabilities", path)
	}
	return caps, nil
}
