package procvirt

import (
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/loadavg"
)

// View is what rendering needs to know. Gathering fills the parts that the file
// asked for shows; the other parts hold what an earlier use left.
type View struct {
	// Host is the text of the host's own file.
	Host []byte

	// Age is the time since the container's init started, in nanoseconds.
	Age int64
	// Busy is the CPU time that the container has used since then, in
	// nanoseconds.
	Busy uint64
	// Visible are the CPUs that the container sees.
	Visible cgroup.CPUs
	// LastCPU is the highest CPU that the container may run on, which a quota
	// may leave out of Visible.
	LastCPU int
	// Offline are the CPUs up to LastCPU that are not in Visible.
	Offline cgroup.CPUs
	// Rows are the CPU times of the visible CPUs, by ascending number.
	Rows []CPURow
	// Total is the sum over the CPUs that are visible or have been.
	Total CPURow

	// Packages count the visible CPUs by physical id, ascending.
	Packages []Package
	cores    []core // what Packages is made from

	Memory cgroup.MemoryUsage
	// HostSwap is the host's swap, in bytes. Files that start from the host's
	// meminfo take it from there.
	HostSwap uint64
	// Huge are the sizes of huge pages that the hugetlb controller counts.
	Huge []cgroup.HugeUsage
	// NoSwap and NoZswap blank the swap and zswap lines.
	NoSwap, NoZswap bool

	// Load is the container's load, as of the last sample. Tracked says that it
	// is up to date; files that are about more than it do without where not.
	Load    loadavg.State
	Tracked bool

	// Stalls is the text of the control group's own file.
	Stalls []byte

	// Disks are the devices that the container has used, by ascending number.
	Disks []cgroup.DiskIO
}

// CPURow is one CPU's row of /proc/stat, in nanoseconds. The kinds do not
// overlap.
type CPURow struct {
	CPU                      int
	User, Nice, System, Idle uint64
}
