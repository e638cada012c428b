// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/cgroup"
)

// A policy says for one container what the daemon's options say for all. It is text on
// the directory of a control group (cgroup.PolicyAttribute): words key=value, apart by
// blanks. It holds for all containers in the group and below it. If several levels have
// a word, that of the nearest counts.
//
//	view=on|off               off: the host's files
//	cpu=quota|cpuset|request  which CPUs are visible
//	swap=on|off               off: no swap
//	loadavg=on|host           host: the host's load averages
//	files=NAME,...            the only files that are not the host's
//
// A name of files= is that of a file (File.String) or of a directory of them: cpu,
// pressure.

// word is a key of a policy.
type word int

// The words, in the order in which they are written.
const (
	wordView word = iota
	wordCPU
	wordSwap
	wordLoadavg
	wordFiles
	numWords
)

var wordNames = [numWords]string{"view", "cpu", "swap", "loadavg", "files"}

// wordValues are the values of each word, but for files.
var wordValues = [numWords][]string{
	wordView: {"on", "off"}, wordCPU: {"quota", "cpuset", "request"}, wordSwap: {"on", "off"}, wordLoadavg: {"on", "host"},
}

// Indexes of wordValues.
const (
	cpuQuota   = 0
	cpuCPUSet  = 1
	cpuRequest = 2
)

// setting is the value of one word.
type setting struct {
	set   bool
	value int    // index of wordValues
	text  string // as it was written
	level int    // how many levels above the container it was found
}

// policy is what the levels say together. It does not change once it is made. The zero
// value says nothing.
type policy struct {
	raw   string // what it was made of
	words [numWords]setting
	// hidden are the files, by index, that files= leaves out. Nil is none.
	hidden []bool
	// unknown are the words, and the names of files, that this version does not know.
	unknown []string
}

// own returns what cgroup.PolicyFiles.ReadOwn returned when p was made.
func (p *policy) own() string {
	end := strings.IndexByte(p.raw, cgroup.PolicyEnd) + 1
	if end == 1 { // only levels above have one
		end = 0
	}
	return p.raw[:end]
}

// parsePolicy makes the policy of what cgroup.PolicyFiles.Read returns.
func parsePolicy(raw []byte, files []File) *policy {
	p := &policy{raw: string(raw)}
	for level := 0; len(raw) > 0; level++ {
		text, rest, _ := bytes.Cut(raw, []byte{cgroup.PolicyEnd})
		for _, w := range strings.Fields(string(text)) {
			p.add(w, level, files)
		}
		raw = rest
	}
	return p
}

// add adds a word of a level, unless a nearer level has its key. Within a level the last
// one counts.
func (p *policy) add(w string, level int, files []File) {
	key, value, ok := splitWord(w)
	s := setting{set: true, text: value, level: level}
	var hidden []bool
	switch {
	case ok && key == wordFiles:
		var unknown []string
		hidden, unknown = hiddenFiles(value, files)
		p.unknown = append(p.unknown, unknown...)
	case ok:
		s.value = slices.Index(wordValues[key], value)
		ok = s.value >= 0
	}
	if !ok {
		p.unknown = append(p.unknown, w)
		return
	}
	if p.words[key].set && p.words[key].level < level {
		return
	}
	p.words[key] = s
	if key == wordFiles {
		p.hidden = hidden
	}
}

// splitWord splits a word into its key and its value. It returns false if there is no
// such key.
func splitWord(w string) (key word, value string, ok bool) {
	name, value, ok := strings.Cut(w, "=")
	i := slices.Index(wordNames[:], name)
	return word(i), value, ok && i >= 0
}

// hiddenFiles returns which files are not in list, and which of its names are of none.
func hiddenFiles(list string, files []File) (hidden []bool, unknown []string) {
	hidden = make([]bool, len(files))
	for i := range hidden {
		hidden[i] = true
	}
	for name := range strings.SplitSeq(list, ",") {
		known := false
		for i := range files {
			if f := files[i].String(); f == name || strings.HasPrefix(f, name+"/") {
				hidden[i], known = false, true
			}
		}
		if !known {
			unknown = append(unknown, "files="+name)
		}
	}
	return hidden, unknown
}

// isSecond reports whether a word has the second of its two values (view=off, swap=off,
// loadavg=host) or, if the word is not there, whether that is what the daemon's options say.
func (p *policy) isSecond(w word, byOption bool) bool {
	if !p.words[w].set {
		return byOption
	}
	return p.words[w].value == 1
}

// cpus returns the index of the value of cpu.
func (p *policy) cpus(cfg *Config) int {
	switch {
	case p.words[wordCPU].set:
		return p.words[wordCPU].value
	case cfg.IgnoreQuota:
		return cpuCPUSet
	}
	return cpuQuota
}

// needs returns the sources that file f needs.
func (p *policy) needs(f *File, cfg *Config) sources {
	if f.needs&(sourceCPU|sourceLoad) != 0 && p.cpus(cfg) == cpuRequest {
		return f.needs | sourceRequest
	}
	return f.needs
}

// hostsFile returns the Reason to show the host's file f, nil if there is none.
func (p *policy) hostsFile(f *File, cfg *Config) error {
	switch {
	case p.isSecond(wordView, false), p.hidden != nil && p.hidden[f.index]:
		return ByPolicy
	case f.needs&sourceLoad == 0 || !p.isSecond(wordLoadavg, cfg.HostLoad):
		return nil
	case p.words[wordLoadavg].set:
		return ByPolicy
	}
	return SwitchedOff
}

// openPolicy opens the directories that have the container's policy. Files of
// controllers that are to be looked for again are closed. The caller holds mu for writing.
func (s *state) openPolicy() error {
	if s.ended {
		return fmt.Errorf("pid namespace %d: %w", s.space.ns, NoInit)
	}
	if s.look.Load() != 0 && (s.unsettled || s.enabledLevels() != s.levels) {
		s.closeLocked()
	}
	if s.policyFiles != nil {
		return nil
	}
	files, err := cgroup.OpenPolicy(&s.space.owner.opener, s.policyPlace())
	if err != nil {
		return err
	}
	s.policyFiles, s.opened = files, append(s.opened, files)
	s.space.opened.Store(s.registry.cfg.Now())
	if err := s.verify(); err != nil {
		s.closeLocked()
		return err
	}
	return nil
}

// policyPlace returns where the container's policy is: on v1 that is the hierarchy of
// memory, or else of cpu. A host without either has a v2 tree.
func (g *groups) policyPlace() cgroup.Place {
	for _, ctl := range [...]cgroup.Controller{cgroup.Memory, cgroup.CPU} {
		if !errors.Is(g.failed[ctl], cgroup.ErrNoController) {
			return g.places[ctl]
		}
	}
	return g.places[cgroup.CPUAcct]
}

// ancestorsAge is how old the policies of the levels above a container's own group may
// be. That of the group itself is read for each content.
const ancestorsAge = int64(time.Second)

// readPolicy returns the container's policy.
func (c *Container) readPolicy() (*policy, error) {
	p := c.known.Load()
	var err error
	if last := c.policyRead.Load(); last != 0 && c.now < last+ancestorsAge {
		if c.attributes, err = c.policyFiles.ReadOwn(c.attributes); err != nil {
			return nil, err
		}
		if string(c.attributes) == p.own() {
			return p, nil
		}
	}
	if c.attributes, err = c.policyFiles.Read(c.attributes); err != nil {
		return nil, err
	}
	if p.raw != string(c.attributes) {
		p = c.learnPolicy()
	}
	c.policyRead.Store(c.now)
	return p, nil
}

// checkPolicy reads the container's policy. It returns errNotOpen if that is not open, the Reason why the host's file f
// is shown, or nil. The caller holds mu.
func (c *Container) checkPolicy(f *File) error {
	if c.policyFiles == nil {
		return errNotOpen
	}
	p, err := c.readPolicy()
	if err != nil {
		return err
	}
	c.policy = p
	err = p.hostsFile(f, &c.registry.cfg)
	if err == ByPolicy && c.policyFiles.Removed() {
		return unix.ENODEV // nothing else will tell
	}
	return err
}

// learnPolicy makes c.attributes the container's policy.
func (c *Container) learnPolicy() *policy {
	p := &c.registry.noPolicy
	if len(c.attributes) > 0 {
		p = parsePolicy(c.attributes, c.registry.files)
	}
	c.known.Store(p)
	if len(p.unknown) > 0 {
		e := &c.registry.events
		e.unknownWords.Add(uint64(len(p.unknown)))
		if !c.warned.Swap(true) {
			e.log.Warn("unknown words in a policy", "cgroup", c.policyPlace().Path, "words", p.unknown)
		}
	}
	return p
}
