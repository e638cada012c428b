// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/initpid"
)

// slowRead is from when on making a content counts as slow.
const slowRead = 100 * time.Millisecond

// numErrnos is more than the highest errno.
const numErrnos = 134

// counts counts what a Registry does beside events.
type counts struct {
	coldOpens, decisions, ended, evicted, delayed atomic.Uint64
}

// Stats is what a Registry has done since its process began, and what it has.
type Stats struct {
	Inits initpid.Stats `json:"inits"`
	// On is false while everybody is shown the host's files.
	On bool `json:"on"`
	// Fallbacks are contents that were the host's, Failures those that a want of
	// descriptors or memory made impossible.
	Fallbacks []FallbackCount `json:"fallbacks"`
	Failures  []FailureCount  `json:"failures"`
	// ColdOpens is how often files of control groups were opened for a content, Decisions
	// how often the control groups of a caller were looked for.
	ColdOpens    uint64 `json:"cold_opens"`
	Decisions    uint64 `json:"decisions"`
	UnknownWords uint64 `json:"unknown_policy_words"`
	// Ended are the pid namespaces that ended, Evicted those that were forgotten because
	// there were too many.
	Ended   uint64 `json:"ended"`
	Evicted uint64 `json:"evicted"`
	// MaxRate is how many contents a second an outermost container may read, 0 for any
	// number. Delayed are the reads that had to wait for that, and Delaying those that wait
	// now.
	MaxRate  int    `json:"max_rate"`
	Delayed  uint64 `json:"delayed"`
	Delaying int    `json:"delaying"`
	// Namespaces and Containers are those that are known, Owners the outermost containers.
	Namespaces    int `json:"namespaces"`
	MaxNamespaces int `json:"max_namespaces"`
	Containers    int `json:"containers"`
	Owners        int `json:"owners"`
	// OpenFiles are the files of control groups that are open.
	OpenFiles int `json:"open_files"`
	MaxFiles  int `json:"max_files"`
}

// FallbackCount is how often a file was the host's, for a reason.
type FallbackCount struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
	N      uint64 `json:"n"`
	// Asked says that the reason is no fault: programs of the host, and what was asked for.
	Asked bool `json:"asked,omitempty"`
}

// FailureCount is how often a file could not be made for want of a resource.
type FailureCount struct {
	File string `json:"file"`
	N    uint64 `json:"n"`
}

// isAsked reports whether r is no fault: programs of the host, and what was asked for.
func (r Reason) isAsked() bool { return r == RootCgroup || r == SwitchedOff || r == ByPolicy }

// Snapshot returns what r has done. It is safe for concurrent use.
func (r *Registry) Snapshot() Stats {
	s := Stats{
		Inits: r.inits.Stats(), On: !r.disabled.Load(),
		Fallbacks: []FallbackCount{}, Failures: []FailureCount{},
		ColdOpens: r.counts.coldOpens.Load(), Decisions: r.counts.decisions.Load(),
		UnknownWords: r.events.unknownWords.Load(),
		Ended:        r.counts.ended.Load(), Evicted: r.counts.evicted.Load(),
		MaxRate: r.cfg.MaxRate, Delayed: r.counts.delayed.Load(), Delaying: int(r.delaying.Load()),
		OpenFiles: r.OpenFiles(), MaxFiles: r.cfg.MaxFiles, MaxNamespaces: maxSpaces,
	}
	for i := range r.files {
		name := r.files[i].String()
		for reason := range numReasons {
			if n := r.events.fallbacks[i][reason].Load(); n > 0 {
				s.Fallbacks = append(s.Fallbacks, FallbackCount{name, reason.String(), n, reason.isAsked()})
			}
		}
		if n := r.events.failures[i].Load(); n > 0 {
			s.Failures = append(s.Failures, FailureCount{name, n})
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	s.Namespaces, s.Owners = len(r.spaces), len(r.owners)
	for _, o := range r.owners {
		s.Containers += int(o.states.Load())
	}
	return s
}

// TriggerStats is what Triggers have done since their process began.
type TriggerStats struct {
	Set     uint64            `json:"set"`
	Refused map[string]uint64 `json:"refused"` // by errno
	Live    int               `json:"live"`
	Max     int               `json:"max"`
}

// Stats returns what t has done. It is safe for concurrent use.
func (t *Triggers) Stats() TriggerStats {
	s := TriggerStats{Set: t.set.Load(), Refused: map[string]uint64{}, Live: t.table.Len(), Max: t.cfg.Max}
	t.refused.Each(func(_, errno int, n uint64) {
		name := unix.ErrnoName(unix.Errno(errno))
		if name == "" {
			name = strconv.Itoa(errno)
		}
		s.Refused[name] = n
	})
	return s
}
