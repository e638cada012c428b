// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// perfEvent is an event of perf_event_open(2) whose samples name a process.
type perfEvent struct {
	name   string
	attr   unix.PerfEventAttr
	filter string // of the tracepoint; empty for none
	// pid is the offset of the process id in the raw data of a sample. If it is 0,
	// the process is the one that caused the event.
	pid    int
	follow bool  // see event.follow
	later  bool  // see event.later
	symbol *byte // keeps alive what attr.Ext1 of a kprobe points to
}

// ringPages is the size of the data of a ring, in pages. A sample has at most 64
// bytes, so a ring holds 256 of them.
const ringPages = 4

// Offsets in struct perf_event_header.
const (
	recordType   = 0 // u32
	recordSize   = 6 // u16
	recordHeader = 8 // length
)

// ring is the ring buffer of an event on one CPU. It is for one goroutine.
type ring struct {
	fd    int
	mem   []byte
	meta  *unix.PerfEventMmapPage
	data  []byte
	event *perfEvent
	buf   []byte // a record that wraps around
}

// openRing opens the event on a CPU.
func openRing(e *perfEvent, cpu int) (*ring, error) {
	attr := e.attr
	attr.Size = uint32(unsafe.Sizeof(attr))
	attr.Sample = 1 // each event makes a sample
	attr.Wakeup = 1
	attr.Sample_type = unix.PERF_SAMPLE_TID
	if e.pid > 0 {
		attr.Sample_type |= unix.PERF_SAMPLE_RAW
	}
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("perf_event_open of %s on CPU %d: %w", e.name, cpu, err)
	}
	r := &ring{fd: fd, event: e}
	if e.filter != "" {
		text, err := unix.BytePtrFromString(e.filter)
		if err == nil {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PERF_EVENT_IOC_SET_FILTER, uintptr(unsafe.Pointer(text)))
			if errno != 0 {
				err = errno
			}
		}
		if err != nil {
			r.close()
			return nil, fmt.Errorf("filter of %s: %w", e.name, err)
		}
	}
	page := os.Getpagesize()
	r.mem, err = unix.Mmap(fd, 0, (1+ringPages)*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		r.close()
		return nil, fmt.Errorf("mmap of %s: %w", e.name, err)
	}
	r.meta = (*unix.PerfEventMmapPage)(unsafe.Pointer(&r.mem[0]))
	r.data = r.mem[page:]
	return r, nil
}

func (r *ring) close() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem) // it was mapped
	}
	unix.Close(r.fd)
}

// read passes the samples that wait in the ring to each. It reports whether the
// kernel had to drop some.
func (r *ring) read(each func(event)) (lost bool) {
	head, tail := atomic.LoadUint64(&r.meta.Data_head), atomic.LoadUint64(&r.meta.Data_tail)
	lost = r.records(head, tail, each)
	atomic.StoreUint64(&r.meta.Data_tail, head)
	return lost
}

// records passes the samples between tail and head to each.
func (r *ring) records(head, tail uint64, each func(event)) (lost bool) {
	for tail+recordHeader <= head {
		b := r.at(tail, recordHeader)
		typ, size := binary.NativeEndian.Uint32(b[recordType:]), uint64(binary.NativeEndian.Uint16(b[recordSize:]))
		if size < recordHeader || tail+size > head || size > uint64(len(r.data)) {
			return true
		}
		switch typ {
		case unix.PERF_RECORD_LOST:
			lost = true
		case unix.PERF_RECORD_SAMPLE:
			if pid := r.event.pidOf(r.at(tail, size)[recordHeader:]); pid > 0 {
				each(event{pid: pid, follow: r.event.follow, later: r.event.later})
			}
		}
		tail += size
	}
	return lost
}

// at returns n bytes of the data at a position of the stream. They are valid until
// the next call.
func (r *ring) at(pos, n uint64) []byte {
	size := uint64(len(r.data))
	pos %= size
	if pos+n <= size {
		return r.data[pos : pos+n]
	}
	r.buf = append(append(r.buf[:0], r.data[pos:]...), r.data[:pos+n-size]...)
	return r.buf
}

// pidOf returns the process that the body of a sample names, or 0. The body is that
// of PERF_SAMPLE_TID and, if pid is set, PERF_SAMPLE_RAW: two u32, the pid and tid in
// the pid namespace of this process; then the length and the raw data.
func (e *perfEvent) pidOf(body []byte) int {
	const raw = 12 // offset of the raw data
	switch {
	case e.pid == 0 && len(body) >= 4:
		return int(int32(binary.NativeEndian.Uint32(body)))
	case e.pid != 0 && len(body) >= raw+e.pid+4:
		return int(int32(binary.NativeEndian.Uint32(body[raw+e.pid:])))
	}
	return 0
}

// perfSource reports the samples of perf events on all CPUs.
type perfSource struct {
	events []*perfEvent
	cpus   string // the CPUs online, as sysfs lists them
	rings  []*ring
}

// cpusOnline is the file that lists the CPUs online.
const cpusOnline = "/sys/devices/system/cpu/online"

// newPerfSource opens the events on all CPUs.
func newPerfSource(events ...*perfEvent) (*perfSource, error) {
	text, err := os.ReadFile(cpusOnline)
	if err != nil {
		return nil, err
	}
	s := &perfSource{events: events, cpus: string(text)}
	cpus, err := parseCPUs(s.cpus)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cpusOnline, err)
	}
	for _, cpu := range cpus {
		for _, e := range events {
			r, err := openRing(e, cpu)
			if errors.Is(err, unix.ENODEV) { // it went offline
				continue
			}
			if err != nil {
				s.close()
				return nil, err
			}
			s.rings = append(s.rings, r)
		}
	}
	if len(s.rings) == 0 {
		return nil, errors.New("no CPU is online")
	}
	return s, nil
}

func (s *perfSource) name() string {
	var names []string
	for _, e := range s.events {
		names = append(names, e.name)
	}
	return strings.Join(names, ", ")
}

func (s *perfSource) fds() []int {
	var fds []int
	for _, r := range s.rings {
		fds = append(fds, r.fd)
	}
	return fds
}

func (s *perfSource) read(each func(event)) (lost bool, err error) {
	for _, r := range s.rings {
		lost = r.read(each) || lost
	}
	return lost, nil
}

// stale reports whether other CPUs are online than at the start. An event sees only
// the CPU that it was opened on.
func (s *perfSource) stale() bool {
	text, err := os.ReadFile(cpusOnline)
	return err == nil && string(text) != s.cpus
}

func (s *perfSource) close() {
	for _, r := range s.rings {
		r.close()
	}
}

// parseCPUs parses a list of CPUs such as "0-3,8".
func parseCPUs(list string) ([]int, error) {
	const most = 1 << 16
	var cpus []int
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return nil, err
		}
		last, err := strconv.ParseUint(to, 10, 16)
		if err != nil {
			return nil, err
		}
		for cpu := first; cpu <= last && len(cpus) < most; cpu++ {
			cpus = append(cpus, int(cpu))
		}
	}
	return cpus, nil
}
