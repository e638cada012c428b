// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"testing"
)

func TestOnlyAStopEndsTheMount(t *testing.T) {
	for _, tt := range []struct {
		name, jobs string
		want       bool
	}{
		{"the daemon has died", "", true},
		{"stop", "812 vprocfs.service stop running\n", false},
		{"restart", "812 vprocfs.service restart running\n", true},
		{"a start that failed", "812 vprocfs.service start running\n", true},
		{"another unit stops", "812 lxcfs.service stop running\n", true},
		{"power off", "1 poweroff.target start waiting\n2 vprocfs.service stop running\n", false},
		{"soft reboot", "1 soft-reboot.target start waiting\n  2 vprocfs.service stop running\n", true},
		{"what nobody knows", "No jobs running.\n\nx\n", true},
	} {
		if got := startsAgain(tt.jobs, "vprocfs.service"); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestAWrongCommandLineIsNotStartedAgain(t *testing.T) {
	t.Setenv("EXIT_CODE", "exited")
	t.Setenv("EXIT_STATUS", "2")
	if again, err := StartsAgain(t.Context(), "vprocfs.service"); again || err != nil {
		t.Errorf("%t, %v", again, err)
	}
}
