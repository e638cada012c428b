// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"os/user"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/internal/control"
	"vprocfs/internal/inject/watch"
	"vprocfs/internal/logqueue"
	"vprocfs/internal/supervise"
)

// Status is the holder's answer to control.Status.
type Status struct {
	Version    string `json:"version"`
	Commit     string `json:"commit,omitempty"`
	MountPoint string `json:"mount_point"`
	// Connection is the number of the FUSE connection (/sys/fs/fuse/connections).
	Connection uint32           `json:"connection"`
	Holder     supervise.Status `json:"holder"`
	// MaxOutage is in seconds.
	MaxOutage float64 `json:"max_outage"`
	Attach    bool    `json:"attach"`
	// Watch is what attaches containers. It is nil if nothing does.
	Watch    *watch.Status `json:"watch,omitempty"`
	LogLevel string        `json:"log_level"`
	// LogDropped are lines that nobody read in time, LogLeftOut those of which there were too
	// many. They are the holder's only.
	LogDropped uint64 `json:"log_lines_dropped"`
	LogLeftOut uint64 `json:"log_lines_left_out"`
	// Heals are runs of vprocfs heal after an abort.
	Heals       uint64   `json:"heals"`
	FailedHeals uint64   `json:"failed_heals"`
	Warnings    []string `json:"warnings"`
	// Syscalls is nil if no system calls are answered.
	Syscalls *CallStatus `json:"syscalls,omitempty"`
}

// status adds to s what this package knows.
func (o *Options) status(s supervise.Status, m *view, h *healer, k *keeper, output *logqueue.Queue) Status {
	version, commit := buildVersion()
	return Status{
		Version: version, Commit: commit, MountPoint: m.dir, Connection: unix.Minor(m.dev), Holder: s,
		MaxOutage: o.MaxOutage.Seconds(), Attach: o.Attach, Watch: k.status(), LogLevel: o.Log.level.Level().String(),
		LogDropped: output.Dropped(), LogLeftOut: o.Log.limit.LeftOut(), Heals: h.runs.Load(), FailedHeals: h.failed.Load(),
		Warnings: o.warnings(),
	}
}

// buildVersion returns the version of this program, and its commit if that is known.
func buildVersion() (version, commit string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			commit = s.Value
		}
	}
	return info.Main.Version, commit
}

// fewFiles is the least limit of descriptors that a thousand containers do well with.
const fewFiles = 65536

// warnings returns what an operator should change on the host or in the unit.
func (o *Options) warnings() []string {
	all := append([]string{}, o.Warnings...)
	all = append(all, requestTimeouts("/", o.MaxOutage)...)
	if permitted, err := permittedCaps(); err == nil && !permitted.has(unix.CAP_SYS_RESOURCE) {
		all = append(all, "no CAP_SYS_RESOURCE: containers cannot set pressure triggers with windows that are no multiple of 2 s")
	}
	if n, err := openFileLimit(); err == nil && n < fewFiles {
		all = append(all, fmt.Sprintf("the limit of descriptors (RLIMIT_NOFILE) is %d: with many containers files are closed and opened again; %d is plenty", n, fewFiles))
	}
	return append(all, o.guarded(readWord("/sys/kernel/security/lockdown"), appArmor())...)
}

// guarded returns what security modules may be in the way of.
func (o *Options) guarded(lockdown, profile string) (all []string) {
	if o.Attach && strings.Contains(lockdown, "[confidentiality]") {
		all = append(all, "kernel lockdown (confidentiality) forbids tracepoints: containers may be attached late")
	}
	if profile != "" && profile != "unconfined" && !strings.HasSuffix(profile, "(complain)") {
		all = append(all, fmt.Sprintf("AppArmor confines the daemon (%s): what its profile forbids fails", profile))
	}
	return all
}

// controlGroup returns the number of ControlGroup. A group that does not exist is a warning:
// the daemon serves without it.
func (o *Options) controlGroup() int {
	if o.ControlGroup == "" {
		return control.NoGroup
	}
	if n, err := strconv.ParseUint(o.ControlGroup, 10, 31); err == nil {
		return int(n)
	}
	g, err := user.LookupGroup(o.ControlGroup)
	if err == nil {
		if n, err := strconv.ParseUint(g.Gid, 10, 31); err == nil {
			return int(n)
		}
	}
	o.Warnings = append(o.Warnings, fmt.Sprintf("only root may ask the control socket: there is no group %s", o.ControlGroup))
	return control.NoGroup
}

// readWord returns the first line of a small file of the kernel, empty if there is none.
func readWord(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimRight(line, "\x00")
}
