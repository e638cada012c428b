// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"math/rand/v2"
	"testing"

	"vprocfs/procvirt/cgroup"
)

func TestCPUMasksAreOneMachine(t *testing.T) {
	for _, tt := range []struct {
		effective                string
		quota                    int // 0: none
		online, present, offline string
	}{
		{"0", 0, "0", "0", ""},
		{"0-3", 0, "0-3", "0-3", ""},
		{"0-3", 2, "0-1", "0-3", "2-3"},
		{"0-3", 3, "0-2", "0-3", "3"},
		{"5", 0, "5", "0-5", "0-4"},
		{"2-3,8", 0, "2-3,8", "0-8", "0-1,4-7"},
		{"2-3,8", 1, "2", "0-8", "0-1,3-8"},
		{"1,3,5", 2, "1,3", "0-5", "0,2,4-5"},
		{"0-8191", 1, "0", "0-8191", "1-8191"},
	} {
		v := someCPUs(t, tt.effective, tt.quota)
		for what, got := range map[string][2]string{
			"online":  {string((&online{v}).append(nil)), tt.online},
			"present": {string((&present{v}).append(nil)), tt.present},
			"offline": {string(offlineOf(v).append(nil)), tt.offline},
		} {
			if got[0] != got[1]+"\n" {
				t.Errorf("%s by %d: %s is %q, want %q", tt.effective, tt.quota, what, got[0], got[1])
			}
		}
	}
}

func offlineOf(v cpuView) *offline {
	n := &offline{cpuView: v}
	n.findHidden()
	return n
}

func someCPUs(t testing.TB, effective string, quota int) cpuView {
	t.Helper()
	v := cpuView{}
	if err := v.visible.Parse([]byte(effective)); err != nil {
		t.Fatal(err)
	}
	v.last = v.visible.Max()
	if quota > 0 {
		v.visible.Truncate(quota)
	}
	return v
}

// FuzzCPUMasks reads the lists back: each possible CPU is online or offline, and
// none is both.
func FuzzCPUMasks(f *testing.F) {
	f.Add(uint64(1), uint16(4), uint16(2))
	f.Add(uint64(2), uint16(8192), uint16(0))
	f.Fuzz(func(t *testing.T, seed uint64, cpus, quota uint16) {
		random := rand.New(rand.NewPCG(seed, 0))
		n := int(cpus)%cgroup.MaxCPUs + 1
		v := cpuView{}
		v.visible.Add(random.IntN(n))
		for range random.IntN(n) {
			v.visible.Add(random.IntN(n))
		}
		v.last = v.visible.Max()
		if quota > 0 {
			v.visible.Truncate(int(quota))
		}
		var on, there, off cgroup.CPUs
		for _, list := range []struct {
			text []byte
			set  *cgroup.CPUs
		}{
			{(&online{v}).append(nil), &on},
			{(&present{v}).append(nil), &there},
			{offlineOf(v).append(nil), &off},
		} {
			if err := list.set.Parse(list.text); err != nil {
				t.Fatal(err)
			}
		}
		if there.Count() != v.last+1 || there.Max() != v.last {
			t.Fatalf("present is %v, want 0 to %d", &there, v.last)
		}
		for c := range v.last + 1 {
			if v.visible.Has(c) == off.Has(c) || v.visible.Has(c) != on.Has(c) {
				t.Fatalf("CPU %d: visible %v, online %v, offline %v", c, v.visible.Has(c), on.Has(c), off.Has(c))
			}
		}
	})
}
