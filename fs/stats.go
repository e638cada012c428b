// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/count"
)

// slowRequest is from when on a request counts as slow.
const slowRequest = 100 * time.Millisecond

// numErrnos is more than the highest errno (include/uapi/asm-generic/errno.h).
const numErrnos = 134

// counters counts what the server does. They begin at 0 with each process.
type counters struct {
	requests *count.Table // by opcode and node.index
	errors   *count.Table // by opcode and errno
	refusals [numRefusals]atomic.Uint64
	reads    count.Histogram
	content  atomic.Uint64 // bytes
	slow     atomic.Uint64
	blocked  atomic.Uint64
	replayed atomic.Uint64
	panics   atomic.Uint64
	// readErrors and writeErrors are those of /dev/fuse that were unexpected.
	readErrors, writeErrors atomic.Uint64
}

func newCounters(nodes int) counters {
	return counters{requests: count.NewTable(numOpcodes, nodes+1), errors: count.NewTable(numOpcodes, numErrnos)}
}

// refusal is why a request was refused that might have been served at another time.
type refusal int

const (
	refusedQueue   refusal = iota // the owner has too many requests that wait
	refusedRecords                // too many requests are noted
	refusedInode                  // others wait for the lock of the inode
	refusedHandles                // the owner has too many open files
	refusedTexts                  // the owner has too many texts
	refusedText                   // its text had to make room
	numRefusals
)

var refusalNames = [numRefusals]string{"queue", "records", "inode", "handles", "texts", "text-gone"}

// refusalErrors are what the callers get.
func refusalErrors() [numRefusals]error {
	return [numRefusals]error{errQueueFull, errNoRecord, errHoldsInode, errTooManyFiles, errNoRoom, errTextGone}
}

// began notes when the work on t begins, if that is of interest.
func (s *Server) began(t *Turn) {
	if t.op == opRead {
		t.began = time.Since(s.start)
	}
}

// count counts a request that is done, whose reply has n bytes of payload.
func (s *Server) count(t *Turn, n int, err error) {
	c := &s.counters
	node := t.node
	if node == nil && !s.isHost(t.id) {
		node = s.tree.node(t.id)
	}
	index := 0
	if node != nil {
		index = node.index
	}
	c.requests.Add(int(t.op), index)
	if t.replayed() {
		c.replayed.Add(1)
	}
	if err != nil && err != errNoReply {
		c.errors.Add(int(t.op), int(toErrno(err)))
		c.countRefusal(err)
	}
	if t.began == 0 {
		return
	}
	took := time.Since(s.start) - t.began - t.delayed
	if took >= slowRequest {
		c.slow.Add(1)
	}
	if t.op == opRead {
		c.reads.Observe(took)
		c.content.Add(uint64(n))
	}
}

func (c *counters) countRefusal(err error) {
	for r, is := range refusalErrors() {
		if errors.Is(err, is) {
			c.refusals[r].Add(1)
			return
		}
	}
}

// Stats is what a server has done since its process began, and what it has.
type Stats struct {
	Requests []RequestCount `json:"requests"`
	Errors   []ErrorCount   `json:"errors"`
	// Refusals are requests that might have been served at another time.
	Refusals []RefusalCount `json:"refusals"`
	// Reads is how long READs took, from when they were taken from the kernel's queue.
	// What they were delayed for (Turn.Delay) is left out, here and in Slow.
	Reads        count.Durations `json:"reads"`
	ContentBytes uint64          `json:"content_bytes"`
	// Slow are requests that took 100 ms or longer, Blocked those that another thread than
	// the reader served.
	Slow     uint64 `json:"slow"`
	Blocked  uint64 `json:"blocked"`
	Replayed uint64 `json:"replayed"`
	// Waiting are the blocked requests that are not answered yet.
	Waiting     int    `json:"waiting"`
	Handles     int    `json:"handles"`
	MaxHandles  int    `json:"max_handles"`
	Texts       int    `json:"text_bytes"`
	MaxTexts    int    `json:"max_text_bytes"`
	Panics      uint64 `json:"panics"`
	ReadErrors  uint64 `json:"read_errors"`
	WriteErrors uint64 `json:"write_errors"`
}

// RequestCount is how many requests of an opcode there were for a file. File is the path
// below the root, empty for files of the host's and for requests without a file.
type RequestCount struct {
	Op   string `json:"op"`
	File string `json:"file,omitempty"`
	N    uint64 `json:"n"`
}

// ErrorCount is how many requests of an opcode were answered with an error.
type ErrorCount struct {
	Op    string `json:"op"`
	Errno string `json:"errno"`
	N     uint64 `json:"n"`
}

// RefusalCount is how many requests were refused for a reason, and with which errno.
type RefusalCount struct {
	Reason string `json:"reason"`
	Errno  string `json:"errno"`
	N      uint64 `json:"n"`
}

// Stats returns what the server has done. It is safe for concurrent use.
func (s *Server) Stats() Stats {
	c := &s.counters
	st := Stats{
		Reads: c.reads.Load(), ContentBytes: c.content.Load(),
		Slow: c.slow.Load(), Blocked: c.blocked.Load(), Replayed: c.replayed.Load(), Waiting: s.waits.count(),
		Panics: s.Panics(), ReadErrors: c.readErrors.Load(), WriteErrors: c.writeErrors.Load(),
		Requests: []RequestCount{}, Errors: []ErrorCount{},
	}
	st.Handles, st.Texts = s.handles.usage()
	st.MaxHandles, st.MaxTexts = maxHandles, numPieces*pieceSize
	paths := make(map[int]string)
	for _, n := range s.tree.nodes {
		if n.id != NodeRoot {
			paths[n.index] = s.tree.path(n)
		}
	}
	c.requests.Each(func(op, index int, n uint64) {
		st.Requests = append(st.Requests, RequestCount{opName(op), paths[index], n})
	})
	c.errors.Each(func(op, errno int, n uint64) {
		st.Errors = append(st.Errors, ErrorCount{opName(op), errnoName(errno), n})
	})
	for r, err := range refusalErrors() {
		st.Refusals = append(st.Refusals, RefusalCount{refusalNames[r], errnoName(int(toErrno(err))), c.refusals[r].Load()})
	}
	return st
}

func errnoName(errno int) string {
	if name := unix.ErrnoName(syscall.Errno(errno)); name != "" {
		return name
	}
	return strconv.Itoa(errno)
}

// opNames are the names of opcodes in lower case.
var opNames = [...]string{
	opLookup: "lookup", opForget: "forget", opGetattr: "getattr", opSetattr: "setattr", opReadlink: "readlink",
	opSymlink: "symlink", opMknod: "mknod", opMkdir: "mkdir", opUnlink: "unlink", opRmdir: "rmdir", opRename: "rename",
	opLink: "link", opOpen: "open", opRead: "read", opWrite: "write", opStatfs: "statfs", opRelease: "release",
	20: "fsync", opSetxattr: "setxattr", 22: "getxattr", 23: "listxattr", opRemovexattr: "removexattr", 25: "flush",
	opInit: "init", opOpendir: "opendir", opReaddir: "readdir", opReleasedir: "releasedir", 30: "fsyncdir",
	opAccess: "access", opCreate: "create", opInterrupt: "interrupt", opDestroy: "destroy", opIoctl: "ioctl",
	opPoll: "poll", opNotifyReply: "notify_reply", opBatchForget: "batch_forget", opRename2: "rename2",
	46: "lseek", opTmpfile: "tmpfile", 52: "statx",
}

func opName(op int) string {
	if op < len(opNames) && opNames[op] != "" {
		return opNames[op]
	}
	return strconv.Itoa(op)
}

// usage returns how many files are open, and how many bytes their texts take.
func (t *handles) usage() (open, textBytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int(t.inUse.Load()), t.arena.used * pieceSize
}

// count returns how many turns have blocked and are not answered.
func (w *waits) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pending)
}

// indexNodes numbers the nodes from 1, by ascending ids.
func (t *tree) indexNodes() {
	var all []*node
	for _, n := range t.nodes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *node) int { return int(a.id) - int(b.id) })
	for i, n := range all {
		n.index = i + 1
	}
}
