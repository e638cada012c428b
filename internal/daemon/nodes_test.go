// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"testing"

	"vprocfs/fs"
)

// TestNodeIDsNeverChange: the kernel may hold an id over a change of daemons.
func TestNodeIDsNeverChange(t *testing.T) {
	want := map[string]fs.NodeID{
		"": 1, "proc": 2, "proc/uptime": 16, "proc/meminfo": 17, "proc/stat": 18,
		"proc/pressure": 7, "proc/pressure/cpu": 40, "proc/pressure/memory": 41, "proc/pressure/io": 42, "proc/pressure/irq": 43,
		"proc/cpuinfo": 19, "proc/loadavg": 20, "proc/swaps": 21, "proc/diskstats": 22, "proc/slabinfo": 23,
		"proc/cgroups": 24, "proc/vmstat": 25,
		"sys": 3, "sys/devices": 4, "sys/devices/system": 5, "sys/devices/system/cpu": 6,
		"sys/devices/system/node": 8, "sys/devices/system/node/online": 48, "sys/devices/system/node/possible": 49,
		"sys/devices/system/node/has_memory": 50, "sys/devices/system/node/has_normal_memory": 51, "sys/devices/system/node/has_cpu": 52,
		"sys/devices/system/cpu/online": 32, "sys/devices/system/cpu/present": 33,
		"sys/devices/system/cpu/possible": 34, "sys/devices/system/cpu/offline": 35,
	}
	s := testSource(t)
	for _, n := range nodes(s.registry.Files()) {
		if n.ID != want[n.Path] {
			t.Errorf("%q has id %d, want %d", n.Path, n.ID, want[n.Path])
		}
		delete(want, n.Path)
	}
	delete(want, "proc/pressure/irq") // not every kernel has it
	if s.registry.HasPressure() && len(want) != 0 {
		t.Errorf("not served: %v", want)
	}
	for _, n := range nodes(s.registry.Files(), "sys/") {
		if n.ID >= 3 && n.ID <= 6 || n.ID == 8 || n.ID >= 32 && n.ID <= 35 || n.ID >= 48 {
			t.Errorf("without sys there is %q", n.Path)
		}
	}
}
