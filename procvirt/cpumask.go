// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"strconv"

	"vprocfs/procvirt/cgroup"
)

// The files of /sys/devices/system/cpu that list CPUs (drivers/base/cpu.c). The
// container's are a machine whose CPUs run from 0 to the highest that it may run
// on: so an array that is sized by the possible CPUs covers every number that
// sched_getcpu(3) can return, and those that it does not see are offline.

const (
	cpuDir     = "sys/devices/system/cpu/"
	onlinePath = cpuDir + "online"
)

func onlineFile() File {
	return File{
		Path: onlinePath, Node: onlineNode, Mode: 0o444, Size: SizePage,
		needs:   sourceCPU,
		numbers: func() numbers { return new(online) },
	}
}

func presentFile() File {
	return File{
		Path: cpuDir + "present", Node: 33, Mode: 0o444, Size: SizePage,
		needs:   sourceCPU,
		numbers: func() numbers { return new(present) },
	}
}

// possibleFile is the file of the CPUs that may ever be there. Those of a container
// are those that are present.
func possibleFile() File {
	return File{
		Path: cpuDir + "possible", Node: possibleNode, Mode: 0o444, Size: SizePage,
		needs:   sourceCPU,
		numbers: func() numbers { return new(present) },
	}
}

const (
	onlineNode   = 32
	possibleNode = 34
	offlineNode  = 35
)

func offlineFile() File {
	return File{
		Path: cpuDir + "offline", Node: offlineNode, Mode: 0o444, Size: SizePage,
		needs:   sourceCPU,
		numbers: func() numbers { return new(offline) },
	}
}

// online is what online shows.
type online struct{ cpuView }

func (n *online) append(dst []byte) []byte {
	return append(n.visible.AppendList(dst), '\n')
}

// present is what present and possible show.
type present struct{ cpuView }

func (n *present) append(dst []byte) []byte {
	dst = append(dst, '0')
	if n.last > 0 {
		dst = append(dst, '-')
		dst = strconv.AppendInt(dst, int64(n.last), 10)
	}
	return append(dst, '\n')
}

// offline is what offline shows.
type offline struct {
	cpuView
	hidden cgroup.CPUs
}

func (n *offline) reset() {
	n.cpuView.reset()
	n.hidden.Clear()
}

func (n *offline) gather(c *Container) error {
	if err := n.cpuView.gather(c); err != nil {
		return err
	}
	n.findHidden()
	return nil
}

// findHidden adds to hidden the CPUs that the container might have but does not see.
func (n *offline) findHidden() {
	for cpu := range n.last + 1 {
		if !n.visible.Has(cpu) {
			n.hidden.Add(cpu)
		}
	}
}

// append writes an empty line if all CPUs are online, as the kernel does.
func (n *offline) append(dst []byte) []byte {
	return append(n.hidden.AppendList(dst), '\n')
}
