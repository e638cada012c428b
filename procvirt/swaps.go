// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"strconv"

	"vprocfs/procvirt/host"
	"vprocfs/procvirt/internal/scan"
)

func swapsFile() File {
	return File{
		Path: "proc/swaps", Node: 21, Mode: 0o444, Size: SizeContent,
		host:    host.Source{Records: true, Optional: true}, // CONFIG_SWAP
		needs:   sourceMemory,
		numbers: func() numbers { return new(swaps) },
	}
}

// swaps is what /proc/swaps shows.
type swaps struct {
	header []byte // the host's first line
	host   uint64 // the host's swap, in bytes
	memory memory
}

func (n *swaps) reset() { *n = swaps{header: n.header[:0]} }

func (n *swaps) gather(c *Container) (err error) {
	if c.host, err = c.registry.readHost("proc/swaps", c.host); err != nil {
		return err
	}
	header, devices := scan.Line(c.host)
	n.header = append(n.header, header...)
	if len(devices) == 0 {
		return nil // whatever the container's limits are
	}
	if c.host, err = c.registry.readHost("proc/meminfo", c.host); err != nil {
		return err
	}
	var h hostMemory
	h.parse(c.host)
	n.host = h.swap
	return n.memory.gather(c, &h)
}

// swapColumn is the width that the kernel pads a file name to (swap_show,
// mm/swapfile.c).
const swapColumn = 40

// append writes /proc/swaps: the host's header, and one line for all the swap
// that the container may use, with the numbers of meminfo's SwapTotal and
// SwapFree. It is nobody's file, so its name is none, as LXCFS has it.
func (n *swaps) append(dst []byte) []byte {
	dst = append(dst, n.header...)
	dst = append(dst, '\n')
	total, free := n.memory.swap(n.host)
	total, free = total>>10, free>>10
	if total == 0 {
		return dst
	}
	// Linux 5.10 has two tabs behind a number of up to 7 digits, and behind its
	// heading; old kernels have one.
	wide := bytes.Contains(n.header, []byte("Size\t\tUsed"))
	dst = append(dst, "none"...)
	for range swapColumn - len("none") {
		dst = append(dst, ' ')
	}
	dst = append(dst, "virtual\t"...)
	for _, kb := range [...]uint64{total, total - free} {
		dst = append(dst, '\t')
		dst = strconv.AppendUint(dst, kb, 10)
		if wide && kb < 10_000_000 {
			dst = append(dst, '\t')
		}
	}
	return append(dst, "\t0\n"...)
}
