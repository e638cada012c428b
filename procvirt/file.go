// Package procvirt makes the text of files of /proc and of
// /sys/devices/system/cpu as a container should see them.
//
// Making one is two steps. Gathering reads the container's control groups and
// the host's files into a View: it does all of the I/O. Rendering turns a View
// into text: it is pure. What each file shows is laid down in VIEW.md of the
// project; the kernel's own formats are those of fs/proc.
package procvirt

import "vprocfs/procvirt/host"

// File is one of the files that the package makes.
type File int

// The files, by their names below /proc, and those of /sys/devices/system.
const (
	Uptime File = iota
	Meminfo
	Stat
	CPUInfo
	Swaps
	Diskstats
	Slabinfo
	Loadavg
	CPUOnline
	CPUPresent
	CPUPossible
	CPUOffline
	PressureCPU
	PressureMemory
	PressureIO
	numFiles
)

// needs is what has to be open before a file can be made.
type needs int

const (
	needCPU needs = iota
	needMemory
	needIO
	needLoad
	needNothing
	needCPUPressure
	needMemoryPressure
	needIOPressure
	numNeeds
)

// fileSpec says how a file is made.
type fileSpec struct {
	name   string
	host   host.File
	needs  needs
	gather func(*Views, *container, *space, *View, *scratch) error
	render func([]byte, *View) []byte
}

var fileSpecs = [numFiles]fileSpec{
	Uptime:    {"uptime", host.Uptime, needCPU, (*Views).gatherUptime, appendUptime},
	Meminfo:   {"meminfo", host.Meminfo, needMemory, (*Views).gatherMeminfo, appendMeminfo},
	Stat:      {"stat", host.Stat, needCPU, (*Views).gatherStat, appendStat},
	CPUInfo:   {"cpuinfo", host.CPUInfo, needCPU, (*Views).gatherCPUInfo, appendCPUInfo},
	Swaps:     {"swaps", host.Swaps, needMemory, (*Views).gatherSwaps, appendSwaps},
	Diskstats: {"diskstats", host.Diskstats, needIO, (*Views).gatherDiskstats, appendDiskstats},
	Slabinfo:  {"slabinfo", host.Slabinfo, needNothing, (*Views).gatherSlabinfo, appendSlabinfo},
	Loadavg:   {"loadavg", host.Loadavg, needLoad, (*Views).gatherLoadavg, appendLoadavg},

	CPUOnline:      {"cpu/online", host.Online, needCPU, (*Views).gatherCPUMask, appendCPUOnline},
	CPUPresent:     {"cpu/present", host.Present, needCPU, (*Views).gatherCPUMask, appendCPUPresent},
	CPUPossible:    {"cpu/possible", host.Possible, needCPU, (*Views).gatherCPUMask, appendCPUPresent},
	CPUOffline:     {"cpu/offline", host.Offline, needCPU, (*Views).gatherCPUMask, appendCPUOffline},
	PressureCPU:    {"pressure/cpu", host.PressureCPU, needCPUPressure, gatherPressure(needCPUPressure), appendPressure},
	PressureMemory: {"pressure/memory", host.PressureMemory, needMemoryPressure, gatherPressure(needMemoryPressure), appendPressure},
	PressureIO:     {"pressure/io", host.PressureIO, needIOPressure, gatherPressure(needIOPressure), appendPressure},
}

func (f File) String() string { return fileSpecs[f].name }
