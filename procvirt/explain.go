package procvirt

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"vprocfs/procvirt/cgroup"
)

// Explanation says which container a process is in, how that was found, and what the
// container's files rest on. It is for people, and made afresh.
type Explanation struct {
	PID         int    `json:"pid"`
	Namespace   uint64 `json:"pid_namespace"`
	NamespaceID uint64 `json:"pid_namespace_id,omitempty"`
	Host        bool   `json:"host_pid_namespace"`
	Init        int    `json:"init"`
	Found       Found  `json:"found"`
	// Again is the answer to the same question asked a second time, which may
	// come from the cache.
	Again Found `json:"again"`
	// Files says for each file whether it is the container's or why it is the
	// host's.
	Files       []FileExplanation       `json:"files"`
	Controllers []ControllerExplanation `json:"controllers"`
	CPUs        CPUExplanation          `json:"cpus"`
}

// Found says how the init was found, and how long that took.
type Found struct {
	By           string  `json:"by"`
	Microseconds float64 `json:"microseconds"`
}

// FileExplanation is about one file.
type FileExplanation struct {
	Name string `json:"name"`
	// Host is the reason why it is the host's file, empty if it is not.
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

// Explain returns what the files of thread pid rest on.
func (r *Registry) Explain(pid int) (*Explanation, error) {
	e := &Explanation{PID: pid}
	for _, f := range []*Found{&e.Found, &e.Again} {
		start := time.Now()
		init, err := r.inits.Resolve(pid)
		if err != nil {
			return nil, err
		}
		*f = Found{init.By.String(), float64(time.Since(start).Nanoseconds()) / 1e3}
		e.Init, e.Host, e.Namespace, e.NamespaceID = init.PID, init.Host, init.NS, init.ID
	}
	c, err := r.Acquire(pid, patient{})
	if err != nil {
		return nil, err
	}
	defer c.Release()
	for _, f := range r.Files() {
		fe := FileExplanation{Name: f.String()}
		if _, err := c.content(nil, f); err != nil {
			fe.Host = reasonOf(err).String()
		}
		e.Files = append(e.Files, fe)
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, ctl := range cgroup.Controllers() {
		e.Controllers = append(e.Controllers, explainController(ctl, &c.state.groups))
	}
	if c.cpu != nil {
		var set cgroup.CPUs
		if _, err := c.cpu.Effective(&set, nil); err == nil && set.Count() > 0 {
			e.CPUs.Effective = set.String()
		}
		var view cpuView
		if err := view.gather(c); err == nil {
			e.CPUs.Visible = view.visible.String()
		}
		if quota, _, err := c.cpu.Quota(nil); err == nil {
			e.CPUs.Quota = quota
		}
	}
	return e, nil
}

// patient is a Turn that waits for everything.
type patient struct{}

func (patient) Block(uint64) error { return nil }
func (patient) SetOwner(uint64)    {}

func explainController(ctl cgroup.Controller, g *groups) ControllerExplanation {
	e := ControllerExplanation{Name: ctl.String()}
	if err := g.failed[ctl]; err != nil {
		e.Error = err.Error()
		return e
	}
	p := g.places[ctl]
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
