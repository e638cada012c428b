// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
)

// MaxListeners bounds how many listeners there may be.
const MaxListeners = 2048

// lanes is how many calls of a listener may be in hand. One more is the holder's.
const lanes = 4

// Table is memory that outlives the processes that share it: the calls that were received
// and not answered yet. The kernel writes a notification right into it, so that a process
// that is killed at any moment loses none. Each listener has a slot, and each of its calls
// in hand a lane.
//
// The layout never changes: a later version adds a table of another name.
type Table struct {
	fd     int
	header *tableHeader
	slots  []slot
}

// tableHeader is at the start of the memory, and headerSize long.
type tableHeader struct {
	magic  uint64
	counts counts
}

// slot is what is known of a listener.
type slot struct {
	// generation counts the listeners that had this slot. received counts notifications.
	generation, received atomic.Uint64
	nameLen              uint32
	name                 [maxNameLen]byte
	lanes                [lanes + 1]lane
}

// maxNameLen bounds the name of a container, in bytes. A longer one is cut off.
const maxNameLen = 116

// lane is a call in hand. Only its owner may use it, but for owner and id.
type lane struct {
	owner atomic.Uint64 // a tag; 0: nobody
	// ready is the id of the call whose deed is in deed. A lane with a deed and without an
	// owner is there for a writer to take.
	ready uint64
	note  seccomp.Notification
	deed  deed
}

// id returns the id of the call in hand, 0 for none.
func (l *lane) id() uint64 { return atomic.LoadUint64(&l.note.ID) }

// clear forgets the call.
func (l *lane) clear() {
	l.ready = 0
	atomic.StoreUint64(&l.note.ID, 0)
	l.note = seccomp.Notification{}
}

// take makes owner the owner instead of old.
func (l *lane) take(old, owner tag) bool { return l.owner.CompareAndSwap(uint64(old), uint64(owner)) }

// release gives the lane up, unless owner has lost it.
func (l *lane) release(owner tag) bool { return l.owner.CompareAndSwap(uint64(owner), 0) }

func (l *lane) ownerTag() tag { return tag(l.owner.Load()) }

const (
	headerSize = 4096
	tableMagic = 0x31736c6c61636676 // "vfcalls1", little-endian
	tableSize  = headerSize + MaxListeners*int(unsafe.Sizeof(slot{}))
)

// NewTable makes an empty table in a memfd of the given name.
func NewTable(name string) (*Table, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	err = unix.Ftruncate(fd, int64(tableSize))
	if err == nil {
		var t *Table
		if t, err = mapTable(fd); err == nil {
			t.header.magic = tableMagic
			return t, nil
		}
	}
	unix.Close(fd)
	return nil, fmt.Errorf("table of calls: %w", err)
}

// OpenTable maps the table in the memfd fd, and takes fd over if it succeeds.
func OpenTable(fd int) (*Table, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("table of calls: fstat: %w", err)
	}
	if st.Size != int64(tableSize) {
		return nil, errNoTable
	}
	t, err := mapTable(fd)
	if err == nil && t.header.magic != tableMagic {
		err = errNoTable
	}
	return t, err
}

var errNoTable = errors.New("not a table of calls")

func mapTable(fd int) (*Table, error) {
	mem, err := unix.Mmap(fd, 0, tableSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	slots := unsafe.Slice((*slot)(unsafe.Pointer(&mem[headerSize])), MaxListeners)
	return &Table{fd, (*tableHeader)(unsafe.Pointer(&mem[0])), slots}, nil
}

// FD returns the descriptor, which stays the Table's.
func (t *Table) FD() int { return t.fd }

// begin makes slot i that of a new listener of the named container, and returns its
// generation. Nobody uses the slot.
func (t *Table) begin(i int, container string) (generation uint64) {
	s := &t.slots[i]
	generation = s.generation.Add(1)
	s.received.Store(0)
	s.nameLen = uint32(copy(s.name[:], container))
	for j := range s.lanes {
		s.lanes[j].clear()
		s.lanes[j].owner.Store(0)
	}
	return generation
}

// container returns the name of the container that the listener is of.
func (s *slot) container() string { return string(s.name[:min(s.nameLen, maxNameLen)]) }

// Name names a listener for those who keep its descriptor: a slot, and its generation.
type Name struct {
	Slot       int
	Generation uint64
}

// NamePrefix is what the names of all listeners begin with.
const NamePrefix = "vprocfs-call-"

func (n Name) String() string { return fmt.Sprintf("%s%d-%d", NamePrefix, n.Slot, n.Generation) }

// ParseName parses the text of a Name.
func ParseName(text string) (n Name, ok bool) {
	if _, err := fmt.Sscanf(text, NamePrefix+"%d-%d", &n.Slot, &n.Generation); err != nil {
		return n, false
	}
	return n, n.Slot >= 0 && n.Slot < MaxListeners && n.String() == text
}
