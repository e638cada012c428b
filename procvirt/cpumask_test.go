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
		v := cpuView(t, tt.effective, tt.quota)
		for what, got := range map[string][2]string{
			"online":  {string(appendCPUOnline(nil, v)), tt.online},
			"present": {string(appendCPUPresent(nil, v)), tt.present},
			"offline": {string(appendCPUOffline(nil, v)), tt.offline},
		} {
			if got[0] != got[1]+"\n" {
				t.Errorf("%s by %d: %s is %q, want %q", tt.effective, tt.quota, what, got[0], got[1])
			}
		}
	}
}

func cpuView(t testing.TB, effective string, quota int) *View {
	t.Helper()
	v := &View{}
	if err := v.Visible.Parse([]byte(effective)); err != nil {
		t.Fatal(err)
	}
	v.LastCPU = v.Visible.Max()
	if quota > 0 {
		v.Visible.Truncate(quota)
	}
	v.findOffline()
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
		v := &View{}
		v.Visible.Add(random.IntN(n))
		for range random.IntN(n) {
			v.Visible.Add(random.IntN(n))
		}
		v.LastCPU = v.Visible.Max()
		if quota > 0 {
			v.Visible.Truncate(int(quota))
		}
		v.findOffline()
		var online, present, offline cgroup.CPUs
		for _, list := range []struct {
			text []byte
			set  *cgroup.CPUs
		}{
			{appendCPUOnline(nil, v), &online},
			{appendCPUPresent(nil, v), &present},
			{appendCPUOffline(nil, v), &offline},
		} {
			if err := list.set.Parse(list.text); err != nil {
				t.Fatal(err)
			}
		}
		if present.Count() != v.LastCPU+1 || present.Max() != v.LastCPU {
			t.Fatalf("present is %v, want 0 to %d", &present, v.LastCPU)
		}
		for c := range v.LastCPU + 1 {
			if v.Visible.Has(c) == offline.Has(c) || v.Visible.Has(c) != online.Has(c) {
				t.Fatalf("CPU %d: visible %v, online %v, offline %v", c, v.Visible.Has(c), online.Has(c), offline.Has(c))
			}
		}
	})
}
