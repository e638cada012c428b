// Package host reads the host's own files below /proc and /sys, which the view
// of a container starts from and falls back to. It knows nothing of containers.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// TicksPerSecond is USER_HZ, the unit of the times in /proc/stat and
// /proc/PID/stat (proc_pid_stat(5)): 100 on every architecture Go runs on.
const TicksPerSecond = 100

// NanosPerTick is the length of a tick in nanoseconds.
const NanosPerTick = 1_000_000_000 / TicksPerSecond

// File is one of the host's files.
type File int

// The files that are kept open.
const (
	Uptime File = iota
	Meminfo
	Stat
	CPUInfo
	Swaps
	Diskstats
	Slabinfo
	Loadavg
	Online
	Present
	Possible
	Offline
	PressureCPU
	PressureMemory
	PressureIO
	numFiles
)

type fileSpec struct {
	name string
	// records says that the kernel hands it out piece by piece.
	records bool
	// optional says that some kernels are built without it.
	optional bool
}

var fileSpecs = [numFiles]fileSpec{
	Uptime:    {name: "proc/uptime"},
	Meminfo:   {name: "proc/meminfo"},
	Stat:      {name: "proc/stat"},
	CPUInfo:   {name: "proc/cpuinfo", records: true},
	Swaps:     {name: "proc/swaps", records: true, optional: true},     // CONFIG_SWAP
	Diskstats: {name: "proc/diskstats", records: true, optional: true}, // CONFIG_BLOCK
	Slabinfo:  {name: "proc/slabinfo", records: true, optional: true},  // CONFIG_SLUB_DEBUG
	Loadavg:   {name: "proc/loadavg"},
	Online:    {name: "sys/devices/system/cpu/online"},
	Present:   {name: "sys/devices/system/cpu/present"},
	Possible:  {name: "sys/devices/system/cpu/possible"},
	Offline:   {name: "sys/devices/system/cpu/offline"},

	// CONFIG_PSI, and psi=1 where it is off by default
	PressureCPU:    {name: "proc/pressure/cpu", optional: true},
	PressureMemory: {name: "proc/pressure/memory", optional: true},
	PressureIO:     {name: "proc/pressure/io", optional: true},
}

// Files holds the host's files open. Read is safe for concurrent use.
type Files struct {
	root  string
	files [numFiles]*held.File // nil for one that the host does not have
}

// Open opens the files below root, "/" but in tests. It fails where one is
// missing that every kernel has.
func Open(o *held.Opener, root string) (*Files, error) {
	h := &Files{root: root}
	for i, spec := range fileSpecs {
		f, err := o.Open(filepath.Join(root, spec.name))
		if spec.optional && errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			h.Close()
			return nil, err
		}
		h.files[i] = f
	}
	return h, nil
}

// Read returns the text of f as it is now, in buf's memory where that is large
// enough. ENOENT is a file that the host does not have.
//
// Each request reads afresh. With a thousand containers that read five files every
// second these reads are 6.6 % of the daemon's CPU time (6.18): that is the most that
// sharing one among the requests of some milliseconds could save, and its price would
// be numbers from before the question.
func (h *Files) Read(f File, buf []byte) ([]byte, error) {
	switch {
	case h.files[f] == nil:
		return buf, fmt.Errorf("open %s: %w", filepath.Join(h.root, fileSpecs[f].name), unix.ENOENT)
	case fileSpecs[f].records:
		return h.files[f].ReadRecords(buf)
	}
	return h.files[f].Read(buf)
}

// Has tells whether the host has f.
func (h *Files) Has(f File) bool { return h.files[f] != nil }

// Close closes the files. No Read may run beside it.
func (h *Files) Close() {
	for _, f := range h.files {
		f.Close()
	}
}

// StartTime returns when process pid started, in nanoseconds on CLOCK_BOOTTIME, a
// whole number of ticks: field 22 of PROC/PID/stat.
func StartTime(proc string, pid int) (int64, error) {
	path := fmt.Sprintf("%s/%d/stat", proc, pid)
	text, err := held.ReadAt([]byte(path+"\x00"), nil)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	ticks, ok := parseStartTime(text)
	if !ok {
		return 0, fmt.Errorf("%s: no start time in %q", path, text[:min(len(text), 200)])
	}
	return int64(min(ticks, 1<<62/NanosPerTick)) * NanosPerTick, nil
}

// parseStartTime finds field 22. The command name, field 2, may hold blanks and
// parentheses, so the counting begins behind the last one.
func parseStartTime(text []byte) (ticks uint64, ok bool) {
	i := bytes.LastIndexByte(text, ')')
	if i < 0 {
		return 0, false
	}
	var f []byte
	text = text[i+1:]
	for range 22 - 2 {
		f, text = scan.Field(text)
	}
	ticks, n := scan.Uint(f)
	return ticks, n > 0 && n == len(f)
}

// LastPID returns the last id that was given to a thread in the daemon's pid
// namespace: field 5 of PROC/loadavg.
func (h *Files) LastPID(buf []byte) (int, []byte, error) {
	text, err := h.Read(Loadavg, buf)
	if err != nil {
		return 0, buf, err
	}
	line, _ := scan.Line(text)
	id, n := scan.Uint(line[bytes.LastIndexByte(line, ' ')+1:])
	if n == 0 || id >= 1<<31 {
		return 0, text, fmt.Errorf("%s: no last pid in %q", filepath.Join(h.root, fileSpecs[Loadavg].name), line[:min(len(line), 80)])
	}
	return int(id), text, nil
}
