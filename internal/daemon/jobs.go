// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// jobsTimeout is how long systemd may take to list its jobs.
const jobsTimeout = 5 * time.Second

// usageStatus is the exit status for a wrong command line, after which the unit is not
// started again (RestartPreventExitStatus=).
const usageStatus = "2"

// StartsAgain reports whether systemd is about to start a unit again, for a process that
// its ExecStopPost= runs. If systemd does not tell, it returns an error.
func StartsAgain(ctx context.Context, unit string) (bool, error) {
	if os.Getenv("EXIT_CODE") == "exited" && os.Getenv("EXIT_STATUS") == usageStatus {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, jobsTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "list-jobs", "--no-legend", "--no-pager", "--full").Output()
	if err != nil {
		return false, fmt.Errorf("systemctl list-jobs: %w", err)
	}
	return startsAgain(string(out), unit), nil
}

// startsAgain reads the jobs that systemctl lists: "ID UNIT TYPE STATE".
//
// A stop has a job of the type stop. A restart has one of the type restart until the unit
// is stopped. If the daemon has ended by itself there is none, and Restart= starts it. In
// a soft reboot every unit is stopped, but containers may go on, and wait for the next
// start.
func startsAgain(jobs, unit string) bool {
	stops, softReboot := false, false
	for line := range strings.Lines(jobs) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		switch {
		case f[1] == unit && f[2] == "stop":
			stops = true
		case f[1] == "soft-reboot.target" && f[2] == "start":
			softReboot = true
		}
	}
	return !stops || softReboot
}
