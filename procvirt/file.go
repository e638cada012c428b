// SPDX-License-Identifier: Apache-2.0

// Package procvirt makes the text of files of /proc and of
// /sys/devices/system/cpu as a container should see them.
//
// Making one is two steps. Gathering reads the container's control groups and
// the host's files into the numbers of that file: it does all of the I/O.
// Appending turns the numbers into text: it is pure. What each file shows is laid
// down in VIEW.md of the project; the kernel's own formats are those of fs/proc.
package procvirt

import (
	"strings"
	"sync"

	"vprocfs/procvirt/host"
)

// File is a row of the table: one of the files that the package makes. All that
// concerns one file stands in one Go file: its row, its numbers, how they are
// gathered and how they are written.
type File struct {
	// Path is where the file is, both below the mount and on the host.
	Path string
	// Node is the number of the file: its FUSE node id and st_ino. Kernels keep it
	// over a restart of the daemon, so it is never changed and never used again.
	Node uint64
	// Mode is the permission bits.
	Mode uint32
	// Size says what st_size is.
	Size Size

	// fromHost says that the file is served only if the host has it.
	fromHost bool
	// host says how the host's own file is read.
	host host.Source
	// needs are the sources that must be open before numbers are gathered.
	needs sources
	// numbers makes the numbers of the file, all zero.
	numbers func() numbers

	index int // in the table
	pool  *sync.Pool
}

// Size says what st_size of a file is.
type Size int

// The rules of st_size.
const (
	// SizePage is one page, which the content never exceeds.
	SizePage Size = iota
	// SizeContent is the length of the caller's own content.
	SizeContent
)

// numbers is what one file shows of a container. Nothing in it outlives a request
// but the memory of its slices: reset makes all else zero.
type numbers interface {
	reset()
	// gather reads the numbers. The sources that the file needs are open.
	gather(c *Container) error
	// append appends the text. It is pure.
	append(dst []byte) []byte
}

// table returns the files.
func table() []File {
	files := []File{
		uptimeFile(), meminfoFile(), statFile(), cpuinfoFile(), swapsFile(), diskstatsFile(), slabinfoFile(), loadavgFile(),
		cgroupsFile(), vmstatFile(),
		onlineFile(), presentFile(), possibleFile(), offlineFile(),
		cpuPressureFile(), memoryPressureFile(), ioPressureFile(), irqPressureFile(),
		nodeOnlineFile(), nodePossibleFile(), nodeHasCPUFile(), nodeHasMemoryFile(), nodeHasNormalMemoryFile(),
		nodeCPUListFile(), nodeCPUMapFile(), nodeMeminfoFile(), nodeNumastatFile(),
	}
	for i := range files {
		f := &files[i]
		f.index, f.host.Path = i, f.Path
		f.pool = newPool(f)
	}
	return files
}

func newPool(f *File) *sync.Pool { return &sync.Pool{New: func() any { return f.numbers() }} }

// String returns the short name of f, such as uptime or cpu/online.
func (f *File) String() string {
	if name, ok := strings.CutPrefix(f.Path, "proc/"); ok {
		return name
	}
	return strings.TrimPrefix(f.Path, "sys/devices/system/")
}

// content appends the content of f as c sees it.
func (f *File) content(dst []byte, c *Container) ([]byte, error) {
	n := f.pool.Get().(numbers)
	defer f.pool.Put(n)
	return fill(n, dst, c)
}

// fill gathers n and appends the text.
func fill(n numbers, dst []byte, c *Container) ([]byte, error) {
	n.reset()
	if err := n.gather(c); err != nil {
		return dst, err
	}
	return n.append(dst), nil
}

// sources is a set of sources of numbers that are opened for a container.
type sources uint

// The sources.
const (
	sourceCPU sources = 1 << iota
	sourceMemory
	sourceIO
	sourceRequest
	sourceLoad
	sourceCounters
	sourceNodes
	sourceCPUPressure
	sourceMemoryPressure
	sourceIOPressure
	sourceIRQPressure
	numSources = iota
)
