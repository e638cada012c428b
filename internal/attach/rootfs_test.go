// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"testing"

	"vprocfs/internal/mountinfo"
)

// A host with a chroot that has a /proc, and the mounts of processes on it.
const (
	onHost = `20 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
21 20 0:20 / /proc rw shared:2 - proc proc rw
22 20 0:20 / /srv/chroot/proc rw - proc proc rw
`
	privateMounts = `120 119 8:1 / / rw - ext4 /dev/sda1 rw
121 120 0:20 / /proc rw - proc proc rw
122 120 0:20 / /srv/chroot/proc rw - proc proc rw
`
	beforePivot = privateMounts + `130 120 0:60 / /run/c1/rootfs rw - overlay overlay rw
131 130 0:61 / /run/c1/rootfs/proc rw - proc proc rw
`
	pivoted = `130 129 0:60 / / rw - overlay overlay rw
131 130 0:61 / /proc rw - proc proc rw
`
	ownProc = privateMounts + `131 121 0:61 / /proc rw - proc proc rw
`
	hostsRoot = `130 129 8:1 / / rw - ext4 /dev/sda1 rw
131 130 0:61 / /proc rw - proc proc rw
`
	oldRootOnNew = `120 130 8:1 / / rw - ext4 /dev/sda1 rw
121 120 0:20 / /proc rw - proc proc rw
130 129 0:60 / / rw - overlay overlay rw
131 130 0:61 / /proc rw - proc proc rw
`
	oldRootOnHostsRoot = `120 130 8:1 / / rw - ext4 /dev/sda1 rw
121 120 0:20 / /proc rw - proc proc rw
130 129 8:1 / / rw - ext4 /dev/sda1 rw
131 130 0:61 / /proc rw - proc proc rw
`
	ofADirectory = `130 129 8:1 /srv/c1 / rw - ext4 /dev/sda1 rw
131 130 0:20 / /proc rw - proc proc rw
`
)

func TestAContainerThatHasNotPivotedIsRecognised(t *testing.T) {
	for _, tt := range []struct {
		name, mounts        string
		root                int
		ownPIDs, sharedPIDs bool
	}{
		{"before pivot_root", beforePivot, 120, true, true},
		{"private mounts only", privateMounts, 120, true, false}, // /proc shows the pids of another namespace
		{"after pivot_root", pivoted, 130, false, false},
		{"unshare --mount-proc", ownProc, 120, false, false},
		{"a container of the host's root", hostsRoot, 130, false, false},
		{"a directory of the host as root, the host's pids", ofADirectory, 130, false, false},
		{"after pivot_root, the old root not unmounted", oldRootOnNew, 130, false, false},
		{"the same with the host's root", oldRootOnHostsRoot, 130, false, false},
		{"no mounts", "", 1, false, false},
	} {
		mounts, err := mountinfo.Parse([]byte(tt.mounts))
		if err != nil {
			t.Fatal(err)
		}
		host, err := mountinfo.Parse([]byte(onHost))
		if err != nil {
			t.Fatal(err)
		}
		if got := notPivoted(tt.root, mounts, host, false); got != tt.ownPIDs {
			t.Errorf("%s, own pid namespace: %v", tt.name, got)
		}
		if got := notPivoted(tt.root, mounts, host, true); got != tt.sharedPIDs {
			t.Errorf("%s, the host's pid namespace: %v", tt.name, got)
		}
	}
}
