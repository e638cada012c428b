package procvirt

import (
	"os"
	"path/filepath"
	"strings"

	"vprocfs/procvirt/cgroup"
)

// Explanation says what a view rests on. It is for people, and made afresh.
type Explanation struct {
	// Files tells for each file whether it is the container's or why it is the
	// host's.
	Files       []FileExplanation       `json:"files"`
	Controllers []ControllerExplanation `json:"controllers"`
	CPUs        CPUExplanation          `json:"cpus"`
}

// FileExplanation is about one file.
type FileExplanation struct {
	Name string `json:"name"`
	// Host is the reason why it is the host's file, empty where it is not.
	Host string `json:"host,omitempty"`
}

// ControllerExplanation is about one controller's control group.
type ControllerExplanation struct {
	Name    string             `json:"name"`
	Version int                `json:"version,omitempty"` // 1 or 2
	Group   string             `json:"group,omitempty"`
	Root    bool               `json:"root,omitempty"`
	Levels  []LevelExplanation `json:"levels,omitempty"`
	Error   string             `json:"error,omitempty"`
}

// LevelExplanation is about the group or one of its ancestors. Limits holds the
// text of the limit files that are there, by their names.
type LevelExplanation struct {
	Dir    string            `json:"dir"`
	Limits map[string]string `json:"limits,omitempty"`
}

// CPUExplanation is about the CPUs that the container sees.
type CPUExplanation struct {
	Visible   string `json:"visible,omitempty"`
	Effective string `json:"effective,omitempty"`
	// Quota is the smallest quota in whole CPUs, rounded up; 0 is none.
	Quota int `json:"quota,omitempty"`
}

// limitFiles are the files that limit something, by controller and version.
var limitFiles = map[cgroup.Controller][2][]string{
	cgroup.Memory: {{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}, {"memory.max", "memory.swap.max"}},
	cgroup.CPU:    {{"cpu.cfs_quota_us", "cpu.cfs_period_us"}, {"cpu.max"}},
	cgroup.CPUSet: {{"cpuset.effective_cpus"}, {"cpuset.cpus.effective"}},
}

// Explain makes the files of a subject and tells what they rest on.
func (v *Views) Explain(s *Subject) Explanation {
	var e Explanation
	x := v.scratch.Get().(*scratch)
	defer v.scratch.Put(x)
	for _, f := range v.Files() {
		fe := FileExplanation{Name: f.String()}
		if _, err := v.content(nil, f, s, x, true); err != nil {
			fe.Host = reasonOf(err).String()
		}
		e.Files = append(e.Files, fe)
	}
	v.mu.RLock()
	sp := v.spaces[s.NS]
	v.mu.RUnlock()
	if sp == nil {
		return e
	}
	sp.mu.RLock()
	defer sp.mu.RUnlock()
	m := sp.callers[string(s.Groups)]
	if m == nil {
		return e
	}
	for _, ctl := range cgroup.Controllers() {
		e.Controllers = append(e.Controllers, explainController(ctl, m.container))
	}
	if c := m.container; c.cpu != nil {
		var set cgroup.CPUs
		if _, err := c.cpu.Effective(&set, nil); err == nil && set.Count() > 0 {
			e.CPUs.Effective = set.String()
		}
		var view cpuView
		if err := view.gather(c, x); err == nil {
			e.CPUs.Visible = view.visible.String()
		}
		if quota, _, err := c.cpu.Quota(nil); err == nil {
			e.CPUs.Quota = quota
		}
	}
	return e
}

func explainController(ctl cgroup.Controller, c *container) ControllerExplanation {
	e := ControllerExplanation{Name: ctl.String()}
	if err := c.failed[ctl]; err != nil {
		e.Error = err.Error()
		return e
	}
	p := c.places[ctl]
	e.Version, e.Group, e.Root = 1, p.Path, p.Root
	if p.V2 {
		e.Name, e.Version = ctl.NameV2(), 2
	}
	for _, dir := range p.Dirs {
		l := LevelExplanation{Dir: dir}
		for _, name := range limitFiles[ctl][e.Version-1] {
			if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				if l.Limits == nil {
					l.Limits = map[string]string{}
				}
				l.Limits[name] = strings.TrimSpace(string(text))
			}
		}
		e.Levels = append(e.Levels, l)
	}
	return e
}
