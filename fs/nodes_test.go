// SPDX-License-Identifier: Apache-2.0

package fs

import "syscall"

// The nodes of the tests.
const (
	NodeProc      NodeID = 2
	NodeSys       NodeID = 3
	NodeDevices   NodeID = 4
	NodeSystem    NodeID = 5
	NodeCPU       NodeID = 6
	NodePressure  NodeID = 7
	NodeUptime    NodeID = 16
	NodeMeminfo   NodeID = 17
	NodeStat      NodeID = 18
	NodeCPUInfo   NodeID = 19
	NodeLoadavg   NodeID = 20
	NodeSwaps     NodeID = 21
	NodeDiskstats NodeID = 22
	NodeSlabinfo  NodeID = 23

	NodeCPUOnline      NodeID = 32
	NodeCPUPresent     NodeID = 33
	NodeCPUPossible    NodeID = 34
	NodeCPUOffline     NodeID = 35
	NodeNUMA           NodeID = 8
	NodeNUMAOnline     NodeID = 48
	NodePressureCPU    NodeID = 40
	NodePressureMemory NodeID = 41
	NodePressureIO     NodeID = 42
)

// NewTestServer is NewServer with the nodes of the tests: sys if there are CPUs, and
// proc/pressure if there are Triggers.
func NewTestServer(c *Conn, src Source, o ServerOptions) *Server {
	const (
		dir  = syscall.S_IFDIR | 0o555
		file = syscall.S_IFREG | 0o444
	)
	o.Nodes = []Node{
		{NodeRoot, "", dir, 0},
		{NodeProc, "proc", dir, 0},
		{NodeUptime, "proc/uptime", file, pageSize},
		{NodeMeminfo, "proc/meminfo", file, pageSize},
		{NodeStat, "proc/stat", file, 0},
		{NodeCPUInfo, "proc/cpuinfo", file, 0},
		{NodeLoadavg, "proc/loadavg", file, pageSize},
		{NodeSwaps, "proc/swaps", file, 0},
		{NodeDiskstats, "proc/diskstats", file, 0},
		{NodeSlabinfo, "proc/slabinfo", syscall.S_IFREG | 0o400, 0},
	}
	if len(o.Hosts) > 0 {
		o.Nodes = append(o.Nodes, []Node{
			{NodeSys, "sys", dir, 0},
			{NodeDevices, "sys/devices", dir | 0o200, 0},
			{NodeSystem, "sys/devices/system", dir | 0o200, 0},
			{NodeCPU, "sys/devices/system/cpu", dir | 0o200, 0},
			{NodeCPUOnline, "sys/devices/system/cpu/online", file, pageSize},
			{NodeCPUPresent, "sys/devices/system/cpu/present", file, pageSize},
			{NodeCPUPossible, "sys/devices/system/cpu/possible", file, pageSize},
			{NodeCPUOffline, "sys/devices/system/cpu/offline", file, pageSize},
		}...)
	}
	if len(o.Hosts) > 1 {
		o.Nodes = append(o.Nodes, []Node{
			{NodeNUMA, "sys/devices/system/node", dir | 0o200, 0},
			{NodeNUMAOnline, "sys/devices/system/node/online", file, pageSize},
		}...)
	}
	if o.Triggers != nil {
		o.Nodes = append(o.Nodes, []Node{
			{NodePressure, "proc/pressure", dir, 0},
			{NodePressureCPU, "proc/pressure/cpu", file | 0o222, pageSize},
			{NodePressureMemory, "proc/pressure/memory", file | 0o222, pageSize},
			{NodePressureIO, "proc/pressure/io", file | 0o222, pageSize},
		}...)
	}
	return NewServer(c, src, o)
}
