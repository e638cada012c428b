package fs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Journal is the memory of a connection that outlives the process that serves it:
// the requests that are not answered yet, the open handles, and their content.
// A process that is killed at any moment leaves it so that the next one can answer
// every request that the first had read, and a handle that was in the middle of
// being read goes on in the same text.
//
// It is a memfd that is mapped shared. Nothing is ever written to a disk, so only
// the order of stores within one process matters: a record is filled in first, and
// then made valid by the atomic store of one word.
//
// At most one process at a time works with it, which a lock ensures that ends with
// the process.
type Journal struct {
	fd   int // the memfd, -1 where no other process is meant to have it
	lock int // an open file of its own, which holds the lock; -1 without one
	mem  []byte

	mu sync.Mutex
	// Records from fresh on were never used; unused are others that are free.
	fresh  int32
	unused []int32
}

// ErrJournalFormat is OpenJournal's answer for a memfd that another version of
// this program has made in a form that this one does not know.
var ErrJournalFormat = errors.New("the journal has an unknown format")

// The layout, in bytes. Of everything but the first two pages only what is used
// takes memory.
const (
	slotOffset     = 4096
	recordsOffset  = slotOffset + requestSize
	handlesOffset  = recordsOffset + maxRecords*int(unsafe.Sizeof(record{}))
	recentsOffset  = handlesOffset + maxHandles*int(unsafe.Sizeof(handle{}))
	linksOffset    = recentsOffset + numRecents*int(unsafe.Sizeof(recent{}))
	contentsOffset = (linksOffset + numPieces*4 + 4095) &^ 4095
	journalSize    = contentsOffset + arenaSize
)

const (
	journalMagic = 0x314a736670727076 // "vprpfsJ1", little-endian
	// requestsVersion is that of the slot and the records. It changes with
	// their layout, and a journal of another version is refused: requests
	// would be lost.
	requestsVersion = 2
	// handlesVersion is that of what follows them. A journal of another version
	// loses it: content is made anew for handles in the middle of being read.
	handlesVersion = 2
)

// journalHeader is the first page.
type journalHeader struct {
	magic    uint64
	requests uint32
	handles  uint32
	// layout has the sizes that the compiler and the machine decide on.
	layout uint64
	epoch  uint64
	grown  uint32 // handles that were ever in use
	// records counts those that were ever in use.
	records uint32
	// dev is the number of the file system (st_dev), 0 where it is not known.
	dev uint64
	// The INIT request and its answer.
	requestSize uint32
	answerSize  uint32
	request     [512]byte
	answer      [512]byte
}

const (
	// maxRecords bounds the slow requests that are remembered.
	maxRecords = 1 << 14
	// maxNoted is how many bytes of a request a record holds: the longest is a LOOKUP
	// of maxName bytes. Of what a WRITE writes the first maxText matter.
	maxNoted = 304
)

// record is a request that has blocked and is not answered. It takes 320 bytes.
type record struct {
	length uint32 // of the whole request; 0: none; stored last
	// attempts is how often processes that crashed have tried it.
	attempts uint32
	_        uint64
	request  [maxNoted]byte // its beginning, 8-byte aligned
}

func layoutOfJournal() uint64 {
	return uint64(unsafe.Sizeof(record{}))<<48 | uint64(unsafe.Sizeof(handle{}))<<32 | uint64(unsafe.Sizeof(recent{}))<<16 | uint64(unsafe.Sizeof(Caller{}))
}

// NewJournal makes an empty journal for a connection that nobody has served yet.
func NewJournal() (*Journal, error) {
	fd, err := unix.MemfdCreate("vprocfs-journal", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(journalSize)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ftruncate of the journal: %w", err)
	}
	j := &Journal{fd: fd, lock: -1}
	if err := j.mapAndLock(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	j.format()
	return j, nil
}

// OpenJournal maps a journal that this process or another has made, and takes fd
// over if it succeeds. It waits until no other process works with it.
func OpenJournal(fd int) (*Journal, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("fstat of the journal: %w", err)
	}
	if st.Size != int64(journalSize) {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrJournalFormat, st.Size, journalSize)
	}
	j := &Journal{fd: fd, lock: -1}
	if err := j.mapAndLock(fd); err != nil {
		return nil, err
	}
	h := j.header()
	if err := h.check(); err != nil {
		return nil, errors.Join(err, j.unmap())
	}
	if h.handles != handlesVersion {
		j.forgetHandles()
	}
	return j, nil
}

// anonymousJournal is one that ends with the process.
func anonymousJournal() *Journal {
	mem, err := unix.Mmap(-1, 0, journalSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		// Address space is the only thing it takes.
		panic(fmt.Sprintf("mmap of %d bytes: %v", journalSize, err))
	}
	j := &Journal{fd: -1, lock: -1, mem: mem}
	j.format()
	return j
}

func (j *Journal) mapAndLock(fd int) error {
	// The lock belongs to the open file, and fd's is shared with all processes
	// that have it.
	lock, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the journal anew: %w", err)
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(lock, unix.LOCK_EX)
	}
	if err != nil {
		unix.Close(lock)
		return fmt.Errorf("flock of the journal: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, journalSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(lock)
		return fmt.Errorf("mmap of the journal: %w", err)
	}
	j.mem, j.lock = mem, lock
	// The kernel copies a request into pages that are there without a fault. A
	// fault under a SIGKILL that is on its way would fail, and the request with
	// it (EIO), hence the lock in memory. It may be refused where the limit is 0;
	// then the pages are there all the same, as long as there is memory.
	_ = unix.Mlock(mem[:recordsOffset])
	for at := 0; at < recordsOffset; at += 4096 {
		p := (*uint32)(unsafe.Pointer(&mem[at]))
		atomic.StoreUint32(p, atomic.LoadUint32(p))
	}
	return nil
}

func (j *Journal) format() {
	h := j.header()
	h.requests, h.handles, h.layout = requestsVersion, handlesVersion, layoutOfJournal()
	h.epoch = rand.Uint64() >> epochBase << epochBase
	h.magic = journalMagic
}

// forgetHandles begins with an empty table. Handles that the kernel holds are
// adopted as they are used.
func (j *Journal) forgetHandles() {
	h := j.header()
	h.handles = handlesVersion
	h.epoch = rand.Uint64() >> epochBase << epochBase
	h.grown = 0
	clear(j.mem[handlesOffset:contentsOffset])
}

// Close unmaps the journal and closes its descriptor. What is in it stays for
// whoever has another descriptor of it. No Server may be using it.
func (j *Journal) Close() error {
	err := j.unmap()
	if j.fd >= 0 {
		err = errors.Join(err, unix.Close(j.fd))
		j.fd = -1
	}
	return err
}

// Leave gives the journal to the next process that opens it. The Journal is of no
// use then, and the memfd, which Leave returns, is the caller's.
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

// FD returns the descriptor, which stays the Journal's.
func (j *Journal) FD() int { return j.fd }

// SetConn remembers the INIT of c for Conn, and dev, the file system's st_dev.
func (j *Journal) SetConn(c *Conn, dev uint64) {
	h := j.header()
	h.dev = dev
	h.requestSize, h.answerSize = 0, 0
	if len(c.request) <= len(h.request) && len(c.answer) <= len(h.answer) {
		h.requestSize = uint32(copy(h.request[:], c.request))
		h.answerSize = uint32(copy(h.answer[:], c.answer))
	}
}

// Conn makes a Conn of the descriptor fd of /dev/fuse and of what SetConn has
// remembered. It takes fd over.
func (j *Journal) Conn(fd int) *Conn {
	h := j.header()
	request := h.request[:min(int(h.requestSize), len(h.request))]
	answer := h.answer[:min(int(h.answerSize), len(h.answer))]
	return NewConn(fd, request, answer)
}

// Dev is the st_dev that SetConn has remembered.
func (j *Journal) Dev() uint64 { return j.header().dev }

func (j *Journal) header() *journalHeader {
	return (*journalHeader)(unsafe.Pointer(&j.mem[0]))
}

// slot is where the reader reads a request to. It is in use, from the moment that
// the kernel has copied the request, until clearSlot.
func (j *Journal) slot() []byte {
	return j.mem[slotOffset : slotOffset+requestSize : slotOffset+requestSize]
}

// slotLength is the first field of fuse.InHeader, and 0 where the slot is free.
func (j *Journal) slotLength() *uint32 {
	return (*uint32)(unsafe.Pointer(&j.mem[slotOffset]))
}

func (j *Journal) clearSlot() { atomic.StoreUint32(j.slotLength(), 0) }

// pendingSlot returns the request in the slot that a former process has left
// unanswered, nil where there is none.
func (j *Journal) pendingSlot() []byte {
	n := atomic.LoadUint32(j.slotLength())
	if n == 0 || n > requestSize {
		return nil
	}
	return j.slot()[:n]
}

func (j *Journal) records() []record {
	return unsafe.Slice((*record)(unsafe.Pointer(&j.mem[recordsOffset])), maxRecords)
}

func (j *Journal) handles() []handle {
	return unsafe.Slice((*handle)(unsafe.Pointer(&j.mem[handlesOffset])), maxHandles)
}

func (j *Journal) recents() []recent {
	return unsafe.Slice((*recent)(unsafe.Pointer(&j.mem[recentsOffset])), numRecents)
}

func (j *Journal) links() []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(&j.mem[linksOffset])), numPieces)
}

func (j *Journal) contents() []byte {
	return j.mem[contentsOffset : contentsOffset+arenaSize : contentsOffset+arenaSize]
}

// note makes a record of a request. ok is false if all are in use.
func (j *Journal) note(request []byte) (i int32, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if last := len(j.unused) - 1; last >= 0 {
		i = j.unused[last]
		j.unused = j.unused[:last]
	} else if j.fresh < maxRecords {
		i = j.fresh
		j.fresh++
		atomic.StoreUint32(&j.header().records, uint32(j.fresh))
	} else {
		return 0, false
	}
	e := &j.records()[i]
	e.attempts = 0
	copy(e.request[:], request)
	atomic.StoreUint32(&e.length, uint32(len(request)))
	return i, true
}

// request returns the beginning of the request in the record i.
func (j *Journal) request(i int32) []byte {
	e := &j.records()[i]
	return e.request[:min(atomic.LoadUint32(&e.length), maxNoted)]
}

// strike forgets the record i.
func (j *Journal) strike(i int32) {
	atomic.StoreUint32(&j.records()[i].length, 0)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unused = append(j.unused, i)
}

// left returns the records that a former process has left, and finds out which are
// free. Nobody may use the journal yet.
func (j *Journal) left() (left []int32) {
	j.fresh = int32(min(atomic.LoadUint32(&j.header().records), maxRecords))
	j.unused = nil
	for i := range j.fresh {
		if n := atomic.LoadUint32(&j.records()[i].length); n == 0 || n > requestSize {
			j.unused = append(j.unused, i)
		} else {
			left = append(left, i)
		}
	}
	return left
}

// JournalDev is the st_dev that a journal remembers, whoever works with it, and
// ErrJournalFormat where OpenJournal would say so.
func JournalDev(fd int) (uint64, error) {
	var words [unsafe.Sizeof(journalHeader{}) / 8]uint64
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
	if n, err := unix.Pread(fd, b, 0); err != nil {
		return 0, fmt.Errorf("read the journal: %w", err)
	} else if n < len(b) {
		return 0, fmt.Errorf("%w: %d bytes", ErrJournalFormat, n)
	}
	h := (*journalHeader)(unsafe.Pointer(&words[0]))
	return h.dev, h.check()
}

// check tells whether this program knows the format.
func (h *journalHeader) check() error {
	if h.magic != journalMagic || h.requests != requestsVersion || h.layout != layoutOfJournal() {
		return fmt.Errorf("%w: version %d, want %d", ErrJournalFormat, h.requests, requestsVersion)
	}
	return nil
}

// DevOf returns the st_dev of the topmost mount on path, an absolute path without
// symbolic links, and 0 where nothing is mounted there. It asks nothing of the
// file system.
func DevOf(path string) (uint64, error) {
	m, err := topMount(path)
	return m.Dev, err
}
