// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/control"
	"vprocfs/internal/loglimit"
	"vprocfs/internal/logqueue"
	"vprocfs/procvirt"
)

// Stats is the worker's answer to control.Stats. Its counters begin at 0 with each worker.
type Stats struct {
	Server   fs.Stats               `json:"server"`
	View     procvirt.Stats         `json:"view"`
	Triggers *procvirt.TriggerStats `json:"triggers,omitempty"` // nil: the host has no pressure
	Kernel   Kernel                 `json:"kernel"`
	Process  Process                `json:"process"`
	// Top are the containers with the most reads per second, whole outermost ones.
	Top []procvirt.OwnerRate `json:"top"`
	// Syscalls is how often each system call had each outcome ("sysinfo/answered"), by all
	// workers.
	Syscalls map[string]uint64 `json:"syscalls,omitempty"`
	// LogDropped are log lines that nobody read in time, LogLeftOut those of which there
	// were too many.
	LogDropped uint64 `json:"log_lines_dropped"`
	LogLeftOut uint64 `json:"log_lines_left_out"`
}

// Kernel is what the host's kernel has.
type Kernel struct {
	Release string `json:"release"`
	// FUSEMinor is the level of its FUSE protocol, 7.FUSEMinor; 0 if it is not known.
	FUSEMinor uint32 `json:"fuse_minor"`
	Cgroups   string `json:"cgroups"` // v1, v2 or hybrid
	Pressure  bool   `json:"pressure"`
	// InitPID is how the init of a pid namespace is found first.
	InitPID string `json:"init_pid"`
	// Lockdown and AppArmor are empty if the kernel has none.
	Lockdown string `json:"lockdown,omitempty"`
	AppArmor string `json:"apparmor,omitempty"`
}

// Process is the process of the worker.
type Process struct {
	PID       int     `json:"pid"`
	Uptime    float64 `json:"uptime"` // seconds
	OpenFiles int     `json:"open_files"`
	MaxFiles  int     `json:"max_files"`
	// Resident is in bytes, CPU in seconds.
	Resident   uint64  `json:"resident_bytes"`
	CPU        float64 `json:"cpu_seconds"`
	Goroutines int     `json:"goroutines"`
}

// maxAnswers is how many clients are answered at the same time, and topOwners how many
// containers Stats names.
const (
	maxAnswers = 4
	topOwners  = 10
)

// answers answers the clients of the control socket. No reader of a file waits for it.
type answers struct {
	src    *source
	server *fs.Server
	output *logqueue.Queue
	limit  *loglimit.Handler
	log    *slog.Logger
	began  time.Time
	slots  chan struct{}
	calls  *callServer
}

func newAnswers(src *source, server *fs.Server, output *logqueue.Queue, limit *loglimit.Handler, log *slog.Logger) *answers {
	return &answers{src: src, server: server, output: output, limit: limit, log: log, began: time.Now(), slots: make(chan struct{}, maxAnswers)}
}

// answer answers c on a goroutine of its own.
func (a *answers) answer(c *control.Client) {
	select {
	case a.slots <- struct{}{}:
		go func() {
			defer func() { <-a.slots }()
			c.Answer(a.data(c.Request))
		}()
	default:
		go c.Say(errors.New("too many clients"))
	}
}

// data returns the answer to r. A panic is an error: it must not end the worker.
func (a *answers) data(r control.Request) (data any, err error) {
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("panic while the control socket was answered", "verb", r.Verb, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: panic: %v", r.Verb, p)
		}
	}()
	switch r.Verb {
	case control.Stats:
		return a.stats(), nil
	case control.Containers:
		if r.Arg == control.CountersOnly {
			return a.src.registry.Counters(), nil
		}
		return a.src.registry.List(), nil
	case control.Files:
		ns, err := strconv.ParseUint(r.Arg, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("pid namespace %q: must be its inode number", r.Arg)
		}
		return a.src.registry.FilesRead(ns)
	case control.Explain:
		pid, err := strconv.Atoi(r.Arg)
		if err != nil {
			return nil, fmt.Errorf("process %q: must be a pid", r.Arg)
		}
		return a.src.registry.Explain(pid)
	}
	return nil, fmt.Errorf("the worker has no verb %q", r.Verb)
}

func (a *answers) stats() Stats {
	s := Stats{
		Server: a.server.Stats(), View: a.src.registry.Snapshot(), Top: a.src.registry.Top(topOwners),
		Process: a.process(), LogDropped: a.output.Dropped(), LogLeftOut: a.limit.LeftOut(), Syscalls: a.calls.stats(),
	}
	s.Kernel = a.kernel(&s.View)
	if a.src.triggers != nil {
		t := a.src.triggers.Stats()
		s.Triggers = &t
	}
	return s
}

func (a *answers) process() Process {
	p := Process{PID: os.Getpid(), Uptime: time.Since(a.began).Seconds(), MaxFiles: a.src.files, Goroutines: runtime.NumGoroutine()}
	p.OpenFiles = openFiles("/proc/self/fd")
	var size, pages uint64
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if _, err := fmt.Sscan(string(text), &size, &pages); err == nil {
			p.Resident = pages * uint64(os.Getpagesize())
		}
	}
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) == nil {
		p.CPU = float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	return p
}

// appArmor returns the profile of this process, empty if the kernel has no AppArmor.
func appArmor() string {
	if word := readWord("/proc/self/attr/apparmor/current"); word != "" { // Linux 5.8
		return word
	}
	if readWord("/sys/module/apparmor/parameters/enabled") != "Y" {
		return "" // attr/current is another security module's
	}
	return readWord("/proc/self/attr/current")
}

// openFiles returns how many descriptors the directory of a process has. Since Linux 6.2 its
// size says so, which takes no time however many they are.
func openFiles(dir string) int {
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil && st.Size > 0 {
		return int(st.Size)
	}
	f, err := os.Open(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	return max(len(names)-1, 0) // without its own
}

func (a *answers) kernel(s *procvirt.Stats) Kernel {
	k := Kernel{
		FUSEMinor: a.server.Minor(),
		Cgroups:   a.src.registry.Layout(),
		Pressure:  a.src.registry.HasPressure(), InitPID: s.Inits.Method,
		Lockdown: readWord("/sys/kernel/security/lockdown"), AppArmor: appArmor(),
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		k.Release = unix.ByteSliceToString(u.Release[:])
	}
	return k
}
