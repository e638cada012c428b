// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"strconv"
	"strings"
)

// CPUView is which CPUs a turn's caller has. The methods block as Source.Append does,
// and so are their errors.
type CPUView interface {
	// LastCPU returns the number of the highest CPU that the caller may have,
	// math.MaxInt for all of the host's.
	LastCPU(t *Turn) (int, error)
	// CPUOffline reports whether a CPU that the caller may have is off for it.
	CPUOffline(t *Turn, cpu int) (bool, error)
}

// OpenCPUTree opens the host's directory of CPUs, "/sys/devices/system/cpu" but in tests. dir
// is the node of sys/devices/system/cpu in the table. A directory cpuN exists for callers
// that may have a CPU of that number or a higher one. If the caller does not see that CPU,
// it looks switched off. It needs Linux 5.6.
func OpenCPUTree(path string, dir NodeID, view CPUView) (*HostTree, error) {
	return openHostTree(path, dir, "", cpuRules{view})
}

// cpuRules are the rules of the directory of the CPUs.
type cpuRules struct{ view CPUView }

// hides reports whether path is about a CPU that the caller cannot have, or one that a CPU
// that is off for the caller does not have.
func (r cpuRules) hides(t *Turn, path string) (bool, error) {
	cpu, below := cpuOf(path)
	if cpu > 0 { // each caller has CPU 0 in the range of its CPUs
		if last, err := r.view.LastCPU(t); err != nil || cpu > last {
			return true, err
		}
	}
	if cpu >= 0 && ofOnlineCPU(below) {
		return r.view.CPUOffline(t, cpu)
	}
	return false, nil
}

func (r cpuRules) filter(t *Turn, dir string) (func(name string) bool, error) {
	if dir == "." {
		last, err := r.view.LastCPU(t)
		return func(name string) bool {
			cpu, _ := cpuOf(name)
			return cpu <= last
		}, err
	}
	if cpu, below := cpuOf(dir); cpu >= 0 && below == "" {
		if off, err := r.view.CPUOffline(t, cpu); err != nil || off {
			return func(name string) bool { return !ofOnlineCPU(name) }, err
		}
	}
	return nil, nil
}

// append makes the file online of a CPU that is off for the caller.
func (r cpuRules) append(dst []byte, path string, t *Turn) (out []byte, ours bool, err error) {
	if cpu, below := cpuOf(path); cpu >= 0 && below == "online" {
		if off, err := r.view.CPUOffline(t, cpu); err != nil {
			return dst, false, err
		} else if off {
			return append(dst, "0\n"...), true, nil
		}
	}
	return dst, false, nil
}

// cpuOf returns the number of the CPU that path is about, -1 for all other paths, and
// the path below the CPU's directory.
func cpuOf(path string) (cpu int, below string) {
	top, below, _ := strings.Cut(path, "/")
	return numbered(top, "cpu"), below
}

// numbered returns N of a name that is the kind and N, such as cpu7, -1 for all others.
func numbered(name, kind string) int {
	number, ok := strings.CutPrefix(name, kind)
	if !ok {
		return -1
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// ofOnlineCPU reports whether an entry of a CPU's directory is there only while the CPU
// is on. Programs count physical cores from them. The CPU's file online, if the host
// has one, then says 0; the first CPU often has none, as it cannot be switched off, and
// gets none.
func ofOnlineCPU(below string) bool {
	top, _, _ := strings.Cut(below, "/")
	return top == "topology" || top == "cache"
}
