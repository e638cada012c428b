// SPDX-License-Identifier: Apache-2.0

// Package journal is the memory of a FUSE connection that outlives the process that
// serves it: the requests that are not answered yet (requests.go), and an Area that the
// server lays out.
//
// A process that is killed at any moment leaves it so that the next one can answer every
// request that the first had read. It is a memfd that is mapped shared. Nothing is ever
// written to a disk, so only the order of stores within one process matters: a record is
// filled in first, and then made valid by the atomic store of one word.
//
// At most one process at a time works with a journal, which a lock ensures that ends with
// the process.
package journal

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Journal is a journal that this process works with. Its methods are safe for concurrent
// use unless they say otherwise.
type Journal struct {
	fd   int // the memfd, -1 if no other process is meant to have it
	lock int // an open file of its own, which holds the lock; -1 without one
	mem  []byte

	mu sync.Mutex
	// Records from fresh on were never used; unused are others that are free.
	fresh  int32
	unused []int32
}

// Layout is what the server has in the Area.
type Layout struct {
	// Size is that of the Area in bytes.
	Size int
	// Version changes with what the Area has in it.
	Version uint64
}

// ErrFormat says that a memfd is no journal, or that its requests have a form that this
// version of the program does not know: they would be lost.
var ErrFormat = errors.New("the journal has an unknown format")

// The layout, in bytes. Only pages that are used take memory, and the first ones.
const (
	pageSize      = 4096
	slotOffset    = pageSize
	recordsOffset = slotOffset + SlotSize
	areaOffset    = recordsOffset + MaxRecords*int(unsafe.Sizeof(record{}))
)

const (
	magic = 0x324a736670727076 // "vprpfsJ2", little-endian
	// version is that of the header, the slot and the records.
	version = 1
)

// header is the first page.
type header struct {
	magic   uint64
	version uint32
	records uint32 // how many were ever in use
	// area is the Version of what is in the Area, 0 if it is being cleared.
	area uint64
	// dev is the number of the file system (st_dev), 0 if it is not known.
	dev uint64
	// minor is the kernel's FUSE level, 7.minor, 0 if it is not known.
	minor uint64
}

// New makes an empty journal for a connection that nobody has served yet, of the file
// system with the number dev (st_dev). The kernel speaks FUSE 7.minor.
func New(l Layout, dev uint64, minor uint32) (*Journal, error) {
	fd, err := unix.MemfdCreate("vprocfs-journal", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	j := &Journal{fd: fd, lock: -1}
	if err := j.mapAndLock(l); err != nil {
		unix.Close(fd)
		return nil, err
	}
	j.format(l)
	j.header().dev, j.header().minor = dev, uint64(minor)
	return j, nil
}

// Anonymous makes a journal that ends with the process.
func Anonymous(l Layout) *Journal {
	size := areaOffset + l.Size
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		// Address space is the only thing it takes.
		panic(fmt.Sprintf("mmap of %d bytes: %v", size, err))
	}
	j := &Journal{fd: -1, lock: -1, mem: mem}
	j.format(l)
	return j
}

// Open maps a journal that this process or another has made, and takes fd over if it
// succeeds. It waits until no other process works with it. An Area of another layout is
// cleared.
func Open(fd int, l Layout) (*Journal, error) {
	if _, err := Dev(fd); err != nil {
		return nil, err
	}
	j := &Journal{fd: fd, lock: -1}
	if err := j.mapAndLock(l); err != nil {
		return nil, err
	}
	if h := j.header(); h.area != l.Version {
		atomic.StoreUint64(&h.area, 0)
		clear(j.Area())
		atomic.StoreUint64(&h.area, l.Version)
	}
	return j, nil
}

func (j *Journal) mapAndLock(l Layout) (err error) {
	// The lock belongs to the open file, and that of the memfd is shared with all
	// processes that have it.
	j.lock, err = unix.Open("/proc/self/fd/"+strconv.Itoa(j.fd), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the journal anew: %w", err)
	}
	if j.mem, err = lockAndMap(j.lock, areaOffset+l.Size); err != nil {
		unix.Close(j.lock)
		return err
	}
	// The kernel copies a request into pages that are there without a fault. A
	// fault under a SIGKILL that is on its way would fail, and the request with
	// it (EIO), hence the lock in memory. It may be refused where the limit is 0;
	// then the pages are there all the same, as long as there is memory.
	_ = unix.Mlock(j.mem[:recordsOffset])
	for at := 0; at < recordsOffset; at += pageSize {
		p := (*uint32)(unsafe.Pointer(&j.mem[at]))
		atomic.StoreUint32(p, atomic.LoadUint32(p))
	}
	return nil
}

// lockAndMap gives the journal fd a size in bytes and maps it, once no other process has
// it locked.
func lockAndMap(fd, size int) ([]byte, error) {
	err := unix.Flock(fd, unix.LOCK_EX)
	for err == unix.EINTR {
		err = unix.Flock(fd, unix.LOCK_EX)
	}
	if err != nil {
		return nil, fmt.Errorf("flock of the journal: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("fstat of the journal: %w", err)
	}
	if st.Size != int64(size) {
		if err := unix.Ftruncate(fd, int64(size)); err != nil {
			return nil, fmt.Errorf("ftruncate of the journal: %w", err)
		}
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap of the journal: %w", err)
	}
	return mem, nil
}

func (j *Journal) format(l Layout) {
	h := j.header()
	h.version, h.area = version, l.Version
	h.magic = magic
}

// Close unmaps the journal and closes its descriptor. What is in it stays for whoever has
// another descriptor of it. Nobody may be using it.
func (j *Journal) Close() error {
	err := j.unmap()
	if j.fd >= 0 {
		err = errors.Join(err, unix.Close(j.fd))
		j.fd = -1
	}
	return err
}

// Leave gives the journal to the next process that opens it. The Journal is of no use
// then, and the memfd, which Leave returns, is the caller's.
func (j *Journal) Leave() (fd int, err error) {
	fd, j.fd = j.fd, -1
	return fd, j.unmap()
}

func (j *Journal) unmap() error {
	err := unix.Munmap(j.mem)
	j.mem = nil
	if j.lock >= 0 {
		err = errors.Join(err, unix.Close(j.lock))
		j.lock = -1
	}
	if err != nil {
		return fmt.Errorf("close the journal: %w", err)
	}
	return nil
}

// Minor returns the minor of New, 0 if it is not known.
func (j *Journal) Minor() uint32 { return uint32(j.header().minor) }

// FD returns the descriptor, which stays the Journal's.
func (j *Journal) FD() int { return j.fd }

// Area returns the memory that the server lays out. It is 8-byte aligned, and all 0 at
// first. It is valid until Close or Leave.
func (j *Journal) Area() []byte { return j.mem[areaOffset:len(j.mem):len(j.mem)] }

func (j *Journal) header() *header { return (*header)(unsafe.Pointer(&j.mem[0])) }

// Dev returns the st_dev that New was given. Another process may have the journal open. It
// returns ErrFormat if Open would return that.
func Dev(fd int) (uint64, error) {
	var words [unsafe.Sizeof(header{}) / 8]uint64
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
	if n, err := unix.Pread(fd, b, 0); err != nil {
		return 0, fmt.Errorf("read the journal: %w", err)
	} else if n < len(b) {
		return 0, fmt.Errorf("%w: %d bytes", ErrFormat, n)
	}
	h := (*header)(unsafe.Pointer(&words[0]))
	if h.magic != magic || h.version != version {
		return 0, fmt.Errorf("%w: version %d, want %d", ErrFormat, h.version, version)
	}
	return h.dev, nil
}
