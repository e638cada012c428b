package fs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ErrAborted is what Serve returns when the connection was aborted
// (/sys/fs/fuse/connections/N/abort): the mount is still there and answers
// ENOTCONN.
var ErrAborted = errors.New("the fuse connection was aborted")

// DefaultWorkers bounds slow requests where ServerOptions does not.
const DefaultWorkers = 64

// ServerOptions may be the zero value.
type ServerOptions struct {
	// Log gets panics of the Source and replies that the kernel refuses.
	// Default: nothing is logged.
	Log *slog.Logger
	// Workers is how many goroutines, and so threads, do slow requests at
	// most. Further slow requests wait in a queue, which is no longer than
	// the number of threads that wait for an answer. Default
	// DefaultWorkers.
	Workers int
	// Owner tells callers apart that take turns where they make slow requests:
	// one owner never has more than an eighth of the workers, and of the requests
	// that may wait (the rest is answered EAGAIN). It is called for slow requests
	// only, by the goroutine that all requests wait for. nil: all are one.
	Owner func(Caller) uint64
	// CPUs is what sys/devices/system/cpu shows; nil leaves sys out of the
	// tree. It stays the caller's, and may be closed when Serve has returned.
	CPUs *CPUTree
	// Journal is what the connection's former server has left, or an empty one
	// of NewJournal. Without one, nobody can go on with the requests that are in
	// hand when this process dies.
	Journal *Journal
	// Crashed says that the former server's process died of itself, and not of
	// a SIGKILL: one of the requests in the journal may have been what it died
	// of. They are tried one by one then, and what has been tried twice is
	// answered EIO.
	Crashed bool
	// Tree is what is served. Default MainTree.
	Tree Tree
	// Pressure says that the MainTree has proc/pressure, which is there to
	// mount the PressureTree on.
	Pressure bool
	// Pins keeps the files open, see Server.Pin. nil: nobody does.
	Pins *Pins
	// Triggers stands behind the files of the PressureTree, which must have
	// it; the MainTree must not.
	Triggers Triggers
}

// Server answers the requests of one connection.
//
// Exactly one goroutine is parked in read(2). It answers cheap requests itself,
// and before a slow one it starts its successor: with several parked readers the
// kernel wakes the one that has slept longest, which has no processor of the Go
// scheduler and waits for one (56 instead of 24 us for open, read, read, close
// with 4 readers; 6.18, same CPU). A second one only while requests queue up does not
// pay either: 4 to 200 processes that read without a pause got 0.9 to 1.3 times the
// answers (median 1.05) for 1.1 to 1.4 times the daemon's CPU time, on two CPUs; and a
// thousand that read five files every second had a 99th percentile of 4.4 and 5.3 ms
// instead of 1.6, for 1.27 times the CPU time (a second reader after 32 answers with
// another request waiting, until none waits).
//
// FUSE over io_uring (Linux 6.14, where the administrator allows it) would answer
// 62,000 to 78,000 instead of 37,000 to 43,000 uptimes a second, on two CPUs. But what
// is in flight when the server dies stays stuck until the unmount: a new ring fetches
// nothing that was queued, and NOTIFY_RESEND knows the queues of /dev/fuse only (tried
// on 6.18). So there is none.
type Server struct {
	conn    *Conn
	journal *Journal
	crashed bool
	src     Source
	owner   func(Caller) uint64 // nil: all callers are one
	log     *slog.Logger
	tree    *tree
	handles *handles
	slow    slow
	cpus    *CPUTree // nil: none
	// hostReads are the slow requests that read the files of cpus.
	hostReads slow
	pins      *Pins // nil: none
	// triggers is nil on a tree that nobody writes to.
	triggers Triggers

	stop   atomic.Bool
	err    atomic.Pointer[error] // why the reader ended, nil when stopped
	active sync.WaitGroup        // the reader and the workers
	pings  pings
	pulse  *pulse
}

// NewServer makes a server for a connection. The connection may have been served
// before, by this process or another. What is in the journal it goes on with:
// requests are answered, and handles keep their content. Handles that it does not
// know it takes over too; their content is made anew.
func NewServer(c *Conn, src Source, o ServerOptions) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	s := &Server{
		conn:     c,
		journal:  o.Journal,
		crashed:  o.Crashed,
		src:      src,
		owner:    o.Owner,
		log:      o.Log,
		tree:     newTree(o.table()),
		cpus:     o.CPUs,
		pins:     o.Pins,
		triggers: o.Triggers,
		pulse:    newPulse(),
	}
	if o.Owner == nil {
		s.slow, s.hostReads = newSlow(o.Workers, o.Workers), newSlow(hostReaders, hostReaders)
	} else {
		s.slow, s.hostReads = newSlow(o.Workers, shareOf(o.Workers)), newSlow(hostReaders, hostReaders/4)
	}
	if s.journal == nil {
		s.journal = anonymousJournal()
		runtime.AddCleanup(s, func(mem []byte) { _ = unix.Munmap(mem) }, s.journal.mem)
	}
	s.handles = newHandles(s.journal)
	return s
}

// Serve answers requests until the file system is unmounted, its last user gone
// (nil), the connection is aborted (ErrAborted), or Stop is called (nil). When it
// returns, no goroutine of the server is left and the Conn may be closed. It must
// be called once.
func (s *Server) Serve() error {
	s.active.Add(1)
	go s.start()
	s.active.Wait()
	if err := s.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Stop makes Serve return once the requests in hand are answered, so that
// another server can go on with the connection. It does not wake the reader: that
// one answers one more request if it is parked. Requests after that stay in the
// kernel's queue. It is safe for concurrent use.
func (s *Server) Stop() { s.stop.Store(true) }

// worker is the memory of one goroutine that handles requests.
type worker struct {
	// in is the request that is handled, in the journal; 8-byte aligned.
	in []byte
	// out is a reply: the header, then the payload, 8-byte aligned. Its length
	// is that of a header between requests; its capacity fits every fixed-size
	// reply, and grows with the content.
	out []byte
	// replayed says that a former process has read the request, recorded that it
	// is the journal's record, and alone that nothing else may be done meanwhile.
	replayed, recorded, alone bool
	record                    int32
}

// keepReply is the capacity in bytes over which a reply buffer is not kept for
// the next request.
const keepReply = 1 << 20

func newWorker() *worker {
	return &worker{out: make([]byte, outHeaderSize, requestSize)}
}

// readLoop is the reader, until it hands the role on or the connection ends.
func (s *Server) readLoop() {
	defer s.active.Done()
	w := s.slow.worker()
	defer s.slow.recycle(w)
	in := s.journal.slot()
	for !s.stop.Load() {
		n, errno := rawRead(s.conn.fd, in)
		if errno == syscall.ECONNABORTED {
			// The last request before an unmount can end so too, where the
			// kernel drops it between the queue and us ("Must not put request
			// on fpq->io queue", fuse_dev_do_read). The next read tells.
			n, errno = rawRead(s.conn.fd, in)
		}
		switch errno {
		case 0:
			s.pulse.beat()
			if handedOn := s.handle(w, in[:n]); handedOn {
				return
			}
			// Only now: a request that is answered twice does no harm, the
			// kernel refuses the second answer. One that is not, hangs.
			s.journal.clearSlot()
		case syscall.EINTR, syscall.EAGAIN, syscall.ENOENT:
			// A signal, or the request was aborted while it was read.
		case syscall.ENODEV:
			s.drop()
			return
		default:
			s.drop()
			err := fmt.Errorf("read %s: %w", devFuse, errno)
			if errno == syscall.ECONNABORTED {
				err = ErrAborted
			}
			s.err.Store(&err)
			return
		}
	}
}

// handle answers the request b, at once or later. It returns true where it has
// handed the role of the reader on.
func (s *Server) handle(w *worker, b []byte) (handedOn bool) {
	h := decode[fuse.InHeader](b)
	if h == nil {
		return false
	}
	w.in = b
	switch h.Opcode {
	case opForget, opBatchForget:
		// Ids are constants; there is nothing to count. No reply.
	case opInterrupt:
		s.interrupt(b)
	case opNotifyReply:
		s.pings.pong(h.Unique)
	case opRead:
		return s.handleRead(w, b)
	case opGetattr:
		if s.isHost(NodeID(h.NodeId)) {
			return s.handleHost(w, h, b)
		}
		return s.handleGetattr(w, b)
	case opWrite:
		return s.handleWrite(w, b)
	case opLookup, opOpen, opOpendir, opReaddir, opReadlink, opAccess:
		if s.isHost(NodeID(h.NodeId)) || s.cpus != nil && h.NodeId == uint64(NodeCPU) {
			return s.handleHost(w, h, b)
		}
		fallthrough
	default:
		n, err := s.handleOther(w, h, b)
		s.reply(w, h.Unique, n, err)
	}
	return false
}

// reply sends n bytes of payload of w.out, or err. A reply to a request that was
// aborted in the meantime is refused with ENOENT, and that is no error.
func (s *Server) reply(w *worker, unique uint64, n int, err error) {
	s.send(w.out[:cap(w.out)], unique, n, toErrno(err))
	if cap(w.out) > keepReply {
		w.out = make([]byte, outHeaderSize, requestSize)
	}
}

// send is reply with a buffer and an errno.
func (s *Server) send(out []byte, unique uint64, n int, e syscall.Errno) {
	length := putHeader(out, unique, n, e)
	errno := rawWrite(s.conn.fd, out[:length])
	if errno != 0 && errno != syscall.ENOENT && errno != syscall.ENODEV {
		s.log.Error("fuse reply refused", "unique", unique, "bytes", length, "err", errno)
	}
}

// makeContent appends the content of r's file to the header in w.out and returns
// it. It is valid until the next request of w.
func (s *Server) makeContent(w *worker, r request, wait bool) (content []byte, err error) {
	defer s.recovered(&r, &err)
	var out []byte
	if r.node != nil {
		out, err = s.src.Append(w.out[:outHeaderSize], r.id, r.caller, wait)
	} else {
		out, err = s.readHost(w.out[:outHeaderSize], r, wait)
	}
	if err != nil {
		return nil, err
	}
	w.setOut(out)
	return w.out[outHeaderSize:len(out)], nil
}

// recovered, when deferred, makes an error of a panic of the Source.
func (s *Server) recovered(r *request, err *error) {
	if p := recover(); p != nil {
		s.log.Error("panic in source", "node", uint64(r.id), "pid", r.caller.PID, "panic", p, "stack", string(debug.Stack()))
		*err = syscall.EIO
	}
}

// setOut makes out, which may have moved, the reply buffer.
func (w *worker) setOut(out []byte) {
	if cap(out) < requestSize {
		out = append(make([]byte, 0, requestSize), out...)
	}
	w.out = out[:outHeaderSize]
}
