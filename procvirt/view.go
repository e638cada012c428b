package procvirt

import "vprocfs/procvirt/cgroup"

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
	// Rows are the CPU times of the visible CPUs, by ascending number.
	Rows []CPURow
	// Total is the sum over the CPUs that are visible or have been.
	Total CPURow

	Memory cgroup.MemoryUsage
	// Huge are the sizes of huge pages that the hugetlb controller counts.
	Huge []cgroup.HugeUsage
	// NoSwap and NoZswap blank the swap and zswap lines.
	NoSwap, NoZswap bool
}

// CPURow is one CPU's row of /proc/stat, in nanoseconds. The kinds do not
// overlap.
type CPURow struct {
	CPU                      int
	User, Nice, System, Idle uint64
}
