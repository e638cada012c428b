// SPDX-License-Identifier: Apache-2.0

// Package shm keeps records in memory that outlives the process: a memfd, mapped
// shared, which the next process gets. A process may be killed at any moment: a record
// then has its former content or its new one, never a mix. Each record has two buffers.
// One is valid while the other is filled, and a single store makes the other valid.
package shm

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Key names a record.
type Key [32]byte

// Owner is the process that a record is about: it may go when the process is gone.
type Owner struct {
	PID     int64
	Started int64 // its start time: another process may get the pid
}

const (
	headerSize = 4096
	slotHeader = int(unsafe.Sizeof(slot{}))
	magic      = 0x3165626174706d76 // "vmptabe1", little-endian
	// maxMemory bounds a table, in bytes. Only records in use take memory.
	maxMemory = 256 << 20
)

// header is at the start of the memory.
type header struct {
	magic   uint64
	version uint32
	payload uint32 // size of one buffer
	slots   uint32
	// used counts the slots that were ever in use.
	used uint32
}

// slot is followed by its two buffers.
type slot struct {
	key    Key
	owner  Owner
	length [2]uint32
	inUse  uint32 // stored last
	// valid is 1 more than the number of the valid buffer; 0 if none is.
	valid uint32
}

// Table is a table of records. It is safe for concurrent use; a Record is not.
type Table struct {
	fd      int
	mem     []byte
	payload int
	slots   int

	mu    sync.Mutex
	index map[Key]int32
	free  []int32
	held  map[int32]bool // by a Record of this process
}

// Format says what a table holds.
type Format struct {
	// Version changes with the meaning of the records.
	Version uint32
	// Payload is the size of the largest record, in bytes.
	Payload int
	// Slots is how many records there may be. There may be room for fewer.
	Slots int
}

func (f Format) payload() int { return (f.Payload + 63) &^ 63 }

func (f Format) slots() int {
	return min(f.Slots, (maxMemory-headerSize)/(slotHeader+2*f.payload()))
}

func (f Format) size() int { return headerSize + f.slots()*(slotHeader+2*f.payload()) }

// New makes an empty table in a memfd of the given name.
func New(name string, f Format) (*Table, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	t, err := Open(fd, f)
	if err != nil {
		unix.Close(fd)
	}
	return t, err
}

// Open maps the table in the memfd fd, and takes fd over if it succeeds. It clears a
// table of another format. No other process may use the table.
func Open(fd int, f Format) (*Table, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("fstat of a table: %w", err)
	}
	if st.Size != int64(f.size()) {
		// Nothing of the old size is left then.
		for _, size := range []int{0, f.size()} {
			if err := unix.Ftruncate(fd, int64(size)); err != nil {
				return nil, fmt.Errorf("ftruncate of a table: %w", err)
			}
		}
	}
	mem, err := unix.Mmap(fd, 0, f.size(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap of a table: %w", err)
	}
	t := &Table{fd: fd, mem: mem, payload: f.payload(), slots: f.slots(), index: make(map[Key]int32), held: make(map[int32]bool)}
	want := header{magic: magic, version: f.Version, payload: uint32(t.payload), slots: uint32(t.slots)}
	h := t.header()
	want.used = h.used
	if *h != want {
		clear(mem[:headerSize])
		want.used = 0
		*h = want
	}
	t.restore()
	return t, nil
}

func (t *Table) restore() {
	h := t.header()
	h.used = min(h.used, uint32(t.slots))
	for i := int32(h.used) - 1; i >= 0; i-- {
		s := t.slot(i)
		if atomic.LoadUint32(&s.inUse) == 0 {
			t.free = append(t.free, i)
			continue
		}
		if s.valid > 2 || s.valid > 0 && int(s.length[s.valid-1]) > t.payload {
			s.valid = 0
		}
		if _, twice := t.index[s.key]; twice {
			atomic.StoreUint32(&s.inUse, 0)
			t.free = append(t.free, i)
			continue
		}
		t.index[s.key] = i
	}
}

// FD returns the descriptor, which stays the Table's.
func (t *Table) FD() int { return t.fd }

// Close unmaps the table. No record may be used any more.
func (t *Table) Close() error {
	err := errors.Join(unix.Munmap(t.mem), unix.Close(t.fd))
	t.mem = nil
	return err
}

// Len is how many records there are.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.index)
}

func (t *Table) header() *header { return (*header)(unsafe.Pointer(&t.mem[0])) }

func (t *Table) offset(i int32) int { return headerSize + int(i)*(slotHeader+2*t.payload) }

func (t *Table) slot(i int32) *slot { return (*slot)(unsafe.Pointer(&t.mem[t.offset(i)])) }

// buffer returns the memory of buffer n, 0 or 1.
func (t *Table) buffer(i int32, n int) []byte {
	start := t.offset(i) + slotHeader + n*t.payload
	return t.mem[start : start+t.payload : start+t.payload]
}

// Record is one record. The methods of nil do nothing.
type Record struct {
	table *Table
	i     int32
}

// Get returns the record of the key, a new one if there is none. It returns nil if there
// are too many, or if the table is nil.
func (t *Table) Get(key Key, owner Owner) *Record {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := t.index[key]
	if !ok {
		if i, ok = t.take(); !ok {
			return nil
		}
		s := t.slot(i)
		s.key, s.owner, s.valid = key, owner, 0
		atomic.StoreUint32(&s.inUse, 1)
		t.index[key] = i
	}
	t.held[i] = true
	return &Record{t, i}
}

func (t *Table) take() (int32, bool) {
	if last := len(t.free) - 1; last >= 0 {
		i := t.free[last]
		t.free = t.free[:last]
		return i, true
	}
	h := t.header()
	if int(h.used) == t.slots {
		return 0, false
	}
	i := int32(h.used)
	atomic.StoreUint32(&h.used, h.used+1)
	return i, true
}

// Load returns what was stored last, nil if nothing was. It is valid until the second
// Commit from now.
func (r *Record) Load() []byte {
	if r == nil {
		return nil
	}
	s := r.table.slot(r.i)
	v := atomic.LoadUint32(&s.valid)
	if v == 0 {
		return nil
	}
	return r.table.buffer(r.i, int(v-1))[:s.length[v-1]]
}

// Buffer returns an empty slice to append the next content to. Its capacity is at least
// Format.Payload.
func (r *Record) Buffer() []byte {
	if r == nil {
		return nil
	}
	return r.table.buffer(r.i, r.next())[:0]
}

// next is the buffer that is not valid.
func (r *Record) next() int {
	if atomic.LoadUint32(&r.table.slot(r.i).valid) == 1 {
		return 1
	}
	return 0
}

// Commit stores b, the slice of Buffer with the content appended. If b has outgrown it,
// or is empty, nothing is stored any more.
func (r *Record) Commit(b []byte) {
	if r == nil {
		return
	}
	s, next := r.table.slot(r.i), r.next()
	if len(b) == 0 || len(b) > r.table.payload || &b[0] != &r.table.buffer(r.i, next)[0] {
		atomic.StoreUint32(&s.valid, 0)
		return
	}
	s.length[next] = uint32(len(b))
	atomic.StoreUint32(&s.valid, uint32(next+1))
}

// Free removes the record, which must not be used any more.
func (r *Record) Free() {
	if r == nil {
		return
	}
	r.table.mu.Lock()
	defer r.table.mu.Unlock()
	delete(r.table.held, r.i)
	r.table.release(r.i)
}

func (t *Table) release(i int32) {
	s := t.slot(i)
	delete(t.index, s.key)
	atomic.StoreUint32(&s.inUse, 0)
	t.free = append(t.free, i)
}

// Sweep removes the records that no Record of this process stands for and whose owner
// is gone, as alive reports. It pauses after each, so that nobody waits for it.
func (t *Table) Sweep(alive func(Owner) bool, pause time.Duration) {
	for i := range int32(t.slots) {
		t.mu.Lock()
		used, s := int32(t.header().used), t.slot(i)
		key, owner, idle := s.key, s.owner, s.inUse != 0 && !t.held[i]
		t.mu.Unlock()
		switch {
		case i >= used:
			return
		case !idle || alive(owner):
			continue
		}
		t.mu.Lock()
		if j, ok := t.index[key]; ok && j == i && !t.held[i] {
			t.release(i)
		}
		t.mu.Unlock()
		time.Sleep(pause)
	}
}

// Each calls f for each record with what is stored in it, which f must not keep.
// Nobody may use the table meanwhile.
func (t *Table) Each(f func(Key, []byte)) {
	for i := range int32(t.header().used) {
		r := &Record{t, i}
		if b := r.Load(); atomic.LoadUint32(&t.slot(i).inUse) != 0 && b != nil {
			f(t.slot(i).key, b)
		}
	}
}
