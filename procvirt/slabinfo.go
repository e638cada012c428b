// SPDX-License-Identifier: Apache-2.0

package procvirt

import "vprocfs/procvirt/host"

func slabinfoFile() File {
	return File{
		Path: "proc/slabinfo", Node: 23, Mode: 0o400, Size: SizeContent,
		host:    host.Source{Records: true, Optional: true}, // CONFIG_SLUB_DEBUG
		numbers: func() numbers { return new(slabinfo) },
	}
}

// slabinfo is what /proc/slabinfo shows: the slab caches are the kernel's, and no
// control group counts its part of each.
type slabinfo struct{}

func (*slabinfo) reset() {}

// gather only finds out whether there is a container at all.
func (*slabinfo) gather(c *Container) error { return c.inGroup() }

// slabinfoHeader is the head of /proc/slabinfo (print_slabinfo_header,
// mm/slab_common.c; the same since Linux 2.6.10).
const slabinfoHeader = "slabinfo - version: 2.1\n" +
	"# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>" +
	" : tunables <limit> <batchcount> <sharedfactor>" +
	" : slabdata <active_slabs> <num_slabs> <sharedavail>\n"

func (*slabinfo) append(dst []byte) []byte { return append(dst, slabinfoHeader...) }
