// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"encoding/binary"
	"sync"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
)

// vmCounters keeps the counters of one container's /proc/vmstat from read to read. The
// kernel's begin at 0 when the container's group is made anew, and when the memory
// controller is disabled and enabled again; what was shown never goes back. It is safe for
// concurrent use.
type vmCounters struct {
	mu sync.Mutex
	// record is where the counters outlive the process; nil for nowhere.
	record *shm.Record
	// source is the inode of what counts now, 0 if nothing did yet.
	source uint64
	// last is the most that the source has counted, and before is what others counted
	// before it.
	last, before cgroup.Counters
}

// countFrom says what counts from now on, by its inode.
func (v *vmCounters) countFrom(source uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if source == 0 || source == v.source {
		return
	}
	for i := range v.last {
		v.before[i] = add(v.before[i], v.last[i])
	}
	v.last, v.source = cgroup.Counters{}, source
	v.save()
}

// show makes counted, what the source has counted, what is to be shown.
func (v *vmCounters) show(counted *cgroup.Counters) {
	v.mu.Lock()
	defer v.mu.Unlock()
	changed := false
	for i := range counted {
		// A concurrent reader may bring older numbers than the last.
		if counted[i] > v.last[i] {
			v.last[i], changed = counted[i], true
		}
		counted[i] = add(v.before[i], v.last[i])
	}
	if changed {
		// Before anybody sees them.
		v.save()
	}
}

// vmCountersVersion is that of what a record holds, which is vmCountersWords words of the
// machine. The counters of package cgroup have fixed places in it.
const (
	vmCountersVersion = 1
	vmCountersWords   = 1 + 2*cgroup.NumCounters
)

func vmCountersFormat() shm.Format {
	return shm.Format{Version: vmCountersVersion, Payload: vmCountersWords * 8, Slots: maxSpaces}
}

// attach makes r the record of v, and v what is in it. It returns the record that v had.
func (v *vmCounters) attach(r *shm.Record) (old *shm.Record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, v.record = v.record, r
	if b := r.Load(); b != nil {
		v.decode(b)
	} else {
		v.save()
	}
	return old
}

// save stores v. The caller holds v.mu.
func (v *vmCounters) save() {
	if v.record != nil && v.source != 0 {
		v.record.Commit(v.append(v.record.Buffer()))
	}
}

// append appends the source, then last, then before.
func (v *vmCounters) append(b []byte) []byte {
	b = binary.NativeEndian.AppendUint64(b, v.source)
	for _, c := range [...]*cgroup.Counters{&v.last, &v.before} {
		for _, n := range c {
			b = binary.NativeEndian.AppendUint64(b, n)
		}
	}
	return b
}

// decode is the reverse of append. It sets all to 0 if b is nothing of the kind. The
// caller holds v.mu.
func (v *vmCounters) decode(b []byte) {
	v.source, v.last, v.before = 0, cgroup.Counters{}, cgroup.Counters{}
	if len(b) != vmCountersWords*8 {
		return
	}
	next := func() (n uint64) {
		n, b = binary.NativeEndian.Uint64(b), b[8:]
		return n
	}
	v.source = next()
	for _, c := range [...]*cgroup.Counters{&v.last, &v.before} {
		for i := range c {
			c[i] = next()
		}
	}
}
