// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"path/filepath"
	"time"

	"vprocfs/procvirt/cgroup"
)

// Explanation says which container a process is in, how that was found, and where each
// number of the container's files comes from. It is for people, and made afresh.
type Explanation struct {
	PID         int    `json:"pid"`
	Namespace   uint64 `json:"pid_namespace"`
	NamespaceID uint64 `json:"pid_namespace_id,omitempty"`
	Host        bool   `json:"host_pid_namespace"`
	Init        int    `json:"init"`
	Found       Found  `json:"found"`
	// Again is the answer to the same question asked a second time, which may
	// come from the cache.
	Again       Found                   `json:"again"`
	Controllers []ControllerExplanation `json:"controllers"`
	// Policy is the words that hold, and Unknown those that are ignored.
	Policy  []PolicyWord      `json:"policy"`
	Unknown []string          `json:"unknown_policy_words,omitempty"`
	Files   []FileExplanation `json:"files"`
	// Known is what was known of the container before, nil for nothing.
	Known *Known `json:"known,omitempty"`
}

// Known is what a Registry knew of a container when it was asked.
type Known struct {
	// Reads are the contents that were made for it, Slow those that took 100 ms or longer.
	Reads     uint64  `json:"reads"`
	PerSecond float64 `json:"reads_per_second"`
	Slow      uint64  `json:"slow"`
	// Fallbacks are the contents that were the host's, and LastFallback the file and the
	// reason of the last, empty if there is none.
	Fallbacks    uint64 `json:"fallbacks"`
	LastFallback string `json:"last_fallback,omitempty"`
	// Open says whether files of its control groups were open, and OpenFiles how many are
	// for all containers of the same outermost one.
	Open      bool `json:"open"`
	OpenFiles int  `json:"open_files"`
}

// Found says how the init was found, and how long that took.
type Found struct {
	By           string  `json:"by"`
	Microseconds float64 `json:"microseconds"`
}

// ControllerExplanation is about one controller's control group.
type ControllerExplanation struct {
	Name    string `json:"name"`
	Version int    `json:"version,omitempty"` // 1 or 2
	Group   string `json:"group,omitempty"`
	Dir     string `json:"dir,omitempty"`
	Root    bool   `json:"root,omitempty"`
	Error   string `json:"error,omitempty"`
}

// FileExplanation is about one file.
type FileExplanation struct {
	Name string `json:"name"`
	// Host is the reason why it is the host's file, empty if it is not.
	Host string `json:"host,omitempty"`
	// Policy is the words of the policy that this file depends on.
	Policy []PolicyWord `json:"policy,omitempty"`
	// Numbers are those of the file. What is not among them is the host's.
	Numbers []NumberExplanation `json:"numbers,omitempty"`
}

// NumberExplanation is about one number, or several that come from one place.
type NumberExplanation struct {
	Name string `json:"name"`
	// Value is what the container is shown, empty for several numbers.
	Value string `json:"value,omitempty"`
	// From is what the number is made of. A limit is the smallest of them.
	From []SourceExplanation `json:"from"`
}

// SourceExplanation is about one thing that a number is made of.
type SourceExplanation struct {
	// File is the name of a file of Group, or a path, or what is done with the others.
	File string `json:"file"`
	// Key is a line of the file, empty for all of it.
	Key string `json:"key,omitempty"`
	// Group is the control group, and Own says that it is the container's own.
	Group string `json:"group,omitempty"`
	Own   bool   `json:"own,omitempty"`
	Value string `json:"value,omitempty"`
	// Limits says that the number is this one, for it is the smallest.
	Limits bool `json:"limits,omitempty"`
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
	e.Known = c.what()
	x := explainer{Container: c, texts: map[string][]byte{}}
	errs := map[string]error{}
	for _, f := range r.Files() {
		text, err := c.content(nil, f)
		x.texts[f.String()], errs[f.String()] = text, err
	}
	nodes := x.readNodeFiles(errs)
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, ctl := range cgroup.Controllers() {
		e.Controllers = append(e.Controllers, explainController(ctl, &c.state.groups))
	}
	p := c.known.Load()
	e.Policy, e.Unknown = p.list(c.policyPlace().Dirs), p.unknown
	add := func(name string, f *File, numbers func() []NumberExplanation) {
		fe := FileExplanation{Name: name, Policy: p.wordsFor(f, c.policyPlace().Dirs)}
		if err := errs[name]; err != nil {
			fe.Host = reasonOf(err).String()
		} else {
			fe.Numbers = numbers()
		}
		e.Files = append(e.Files, fe)
	}
	for _, f := range r.Files() {
		add(f.String(), f, func() []NumberExplanation { return x.numbers(f) })
	}
	for _, n := range nodes {
		add(n.String(), n.file, func() []NumberExplanation { return x.nodeNumbers(n) })
	}
	return e, nil
}

// patient is a Turn that waits for everything.
type patient struct{}

func (patient) Block(uint64) error { return nil }
func (patient) SetOwner(uint64)    {}

// Delay does not wait: nobody is accounted for what an operator asks.
func (patient) Delay(uint64, time.Duration) error { return nil }

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
	if len(p.Dirs) > 0 {
		e.Dir = p.Dirs[0]
	}
	return e
}

// wordsFor returns the words of p that decide about f. Their levels are dirs.
func (p *policy) wordsFor(f *File, dirs []string) (words []PolicyWord) {
	counts := [numWords]bool{
		wordView: true, wordFiles: true,
		wordCPU:     f.needs&sourceCPU != 0,
		wordSwap:    f.needs&sourceMemory != 0 && f.needs&sourceCounters == 0,
		wordLoadavg: f.needs&sourceLoad != 0 || f.Path == "proc/stat",
	}
	for key, s := range p.words {
		if s.set && counts[key] {
			words = append(words, PolicyWord{wordNames[key], s.text, dirs[s.level]})
		}
	}
	return words
}

// groupAt returns the name of the group so many levels above that of p.
func groupAt(p *cgroup.Place, level int) string {
	name := p.Path
	for range level {
		name = filepath.Dir(name)
	}
	return name
}

// what returns what is known of a container, nil if nothing was made for it.
func (s *state) what() *Known {
	if s.reads.Total() == 0 {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, o := s.registry, s.space.owner
	k := &Known{
		Reads: s.reads.Total(), PerSecond: s.reads.PerSecond(r.cfg.Now()), Slow: s.slow.Load(),
		Fallbacks: s.fallbacks.Load(), Open: len(s.opened) > 0, OpenFiles: o.opener.Count(),
	}
	if last := s.lastFallback.Load(); last != 0 {
		k.LastFallback = r.files[last>>8].String() + ": " + Reason(last&0xff-1).String()
	}
	return k
}
