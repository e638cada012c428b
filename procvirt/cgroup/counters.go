// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// Counter is a number that only grows while the group lives, under the name that
// /proc/vmstat has for it.
type Counter int

// The counters whose names memory.stat does not have, or has for something else.
const (
	OOMKill    Counter = iota // of memory.events
	PageIn                    // KiB read from devices
	PageOut                   // KiB written to devices
	scanDirect                // pages; of the direct kind if memory.stat tells the kinds
	stealDirect
	numNamed

	// NumCounters is how many counters there are.
	NumCounters = 46
)

var counterNames = [NumCounters]string{
	"oom_kill", "pgpgin", "pgpgout", "pgscan_direct", "pgsteal_direct",
	"pgactivate", "pgdeactivate", "pgdemote_direct", "pgdemote_khugepaged", "pgdemote_kswapd", "pgdemote_proactive",
	"pgfault", "pglazyfree", "pglazyfreed", "pgmajfault", "pgpromote_success", "pgrefill",
	"pgscan_khugepaged", "pgscan_kswapd", "pgscan_proactive", "pgsteal_khugepaged", "pgsteal_kswapd", "pgsteal_proactive",
	"pswpin", "pswpout", "swpin_zero", "swpout_zero", "zswpin", "zswpout", "zswpwb",
	"thp_collapse_alloc", "thp_fault_alloc", "thp_swpout", "thp_swpout_fallback",
	"numa_hint_faults", "numa_pages_migrated", "numa_pte_updates",
	"workingset_activate_anon", "workingset_activate_file", "workingset_nodereclaim",
	"workingset_refault_anon", "workingset_refault_file", "workingset_restore_anon", "workingset_restore_file",
	// Before Linux 5.9 for both kinds of pages.
	"workingset_refault", "workingset_activate",
}

func (c Counter) String() string { return counterNames[c] }

// countersByName does not change.
var countersByName = func() map[string]Counter {
	all := make(map[string]Counter, NumCounters)
	for i, name := range counterNames {
		all[name] = Counter(i)
	}
	return all
}()

// CounterNamed returns the counter with the given name.
func CounterNamed(name []byte) (c Counter, ok bool) {
	c, ok = countersByName[string(name)]
	return c, ok
}

// Counters are the values of all counters. One that the kernel does not have is 0.
type Counters [NumCounters]uint64

// parse sets the counters that memory.stat has: on v1 those of its total_ keys, in which
// descendants count. pgpgin and pgpgout are charges there, and not I/O.
func (c *Counters) parse(text []byte, v2 bool) {
	var scanned, stolen uint64
	kinds := false
	for key, v := range scan.KeyValues(text) {
		if !v2 {
			var ok bool
			if key, ok = bytes.CutPrefix(key, []byte("total_")); !ok {
				continue
			}
		}
		switch string(key) {
		case "pgscan":
			scanned = v
		case "pgsteal":
			stolen = v
		}
		if n, ok := CounterNamed(key); ok && n > PageOut {
			c[n] = v
			kinds = kinds || n == scanDirect
		}
	}
	if !kinds {
		// Linux 5.10 tells the sum only. A group's own limit is direct reclaim.
		c[scanDirect], c[stealDirect] = scanned, stolen
	}
}

// ReadStat sets s, and the counters that memory.stat has in c, from one text. Nothing is
// set if the group does not have the controller. It returns the buffer it worked in, grown
// where it had to be.
func (m *MemoryFiles) ReadStat(s *MemoryStat, c *Counters, buf []byte) ([]byte, error) {
	if m.own.stat == nil {
		return buf, nil
	}
	r := reader{buf: buf}
	text := r.text(m.own.stat)
	if m.v2 {
		s.parse(text)
	} else {
		s.parseV1(text)
	}
	c.parse(text, m.v2)
	return r.buf, r.err
}

// OOMFile keeps open the file that counts the processes of a group that the OOM killer
// killed: memory.events, or v1's memory.oom_control, which does not count those of
// descendants. Read is safe for concurrent use, Close is not.
type OOMFile struct {
	files
	file *held.File
	// Inode is that of the file. It is another one, and all that the controller counts
	// begins at 0, when the controller is disabled and enabled again. It is 0 if the group
	// does not have the controller.
	Inode uint64
}

// OpenOOM opens what Read needs at p.
func OpenOOM(o *held.Opener, p Place) (*OOMFile, error) {
	name := "memory.events"
	if !p.V2 {
		name = "memory.oom_control"
	}
	f := &OOMFile{files: files{opener: o}}
	if f.file = f.own(p.Dirs, name); f.file != nil {
		f.Inode, f.err = f.file.Inode()
	}
	return opened(f, &f.files)
}

// Read sets c[OOMKill]. It returns the buffer it worked in, grown where it had to be.
func (f *OOMFile) Read(c *Counters, buf []byte) ([]byte, error) {
	if f.file == nil {
		return buf, nil
	}
	r := reader{buf: buf}
	for key, v := range scan.KeyValues(r.text(f.file)) {
		if string(key) == "oom_kill" {
			c[OOMKill] = v
		}
	}
	return r.buf, r.err
}
