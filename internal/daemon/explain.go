package daemon

import (
	"log/slog"
	"os"
	"time"

	"vprocfs/initpid"
	"vprocfs/procvirt"
)

// Explanation says which container a process belongs to, and how that was found.
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
	procvirt.Explanation
}

// Found says how the init was found, and how long that took.
type Found struct {
	By           string  `json:"by"`
	Microseconds float64 `json:"microseconds"`
}

// Explain finds the container of process pid as a daemon with the same options
// does.
func Explain(o ViewOptions, pid int) (*Explanation, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	src, err := newSource(o, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return src.explain(pid)
}

func (s *source) explain(pid int) (*Explanation, error) {
	e := &Explanation{}
	for _, f := range []*Found{&e.Found, &e.Again} {
		start := time.Now()
		init, err := s.resolver.Resolve(pid)
		if err != nil {
			return nil, err
		}
		*f = Found{init.By.String(), float64(time.Since(start).Nanoseconds()) / 1e3}
		e.fill(pid, init)
	}
	var r request
	if _, err := s.find(&r.subject, &r, pid, true); err != nil {
		return nil, err
	}
	e.Explanation = s.views.Explain(&r.subject)
	return e, nil
}

func (e *Explanation) fill(pid int, init initpid.Init) {
	e.PID, e.Init, e.Host = pid, init.PID, init.Host
	e.Namespace, e.NamespaceID = init.NS, init.ID
}
