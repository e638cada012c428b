// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vprocfs/fs/journal"
)

// ErrAborted is what Serve returns when the connection was aborted
// (/sys/fs/fuse/connections/N/abort): the mount is still there and answers
// ENOTCONN.
var ErrAborted = errors.New("the fuse connection was aborted")

// DefaultWorkers is the default of ServerOptions.Workers.
const DefaultWorkers = 64

// ServerOptions need Nodes; the rest may be zero.
type ServerOptions struct {
	// Log gets panics of the Source and replies that the kernel refuses.
	// Default: nothing is logged.
	Log *slog.Logger
	// Workers is how many blocked turns, each on a thread, are at work at most;
	// one owner never has more than its share (shareOf). Further ones wait for their
	// turn. Default DefaultWorkers.
	Workers int
	// Hosts are what directories show beside the Nodes. They stay the caller's, and may be
	// closed when Serve has returned.
	Hosts []*HostTree
	// Journal is what the connection's former server has left, or an empty one of
	// NewJournal. Without one the requests in hand are lost when this process dies.
	Journal *journal.Journal
	// Crashed says that the former server's process crashed and was not killed by
	// SIGKILL. A request in the journal may be the reason (replay.go).
	Crashed bool
	// Nodes are the files and directories that are served.
	Nodes []Node
	// Pins keeps the files open, see Server.Pin. nil: nobody does.
	Pins *Pins
	// Triggers stands behind the files that can be written to. nil: there are none.
	Triggers Triggers
	// IDMap says that the connection was made with MountOptions.IDMap.
	IDMap bool
}

// Server answers the requests of one connection.
//
// Exactly one goroutine is parked in read(2). It answers most requests itself; one that
// is about to block first starts the next reader (Turn.Block). With 4 parked readers open,
// read, read, close took 56 instead of 24 us (6.18, same CPU): the kernel wakes the one
// that has slept longest, which waits for a processor of the Go scheduler. A second reader
// only while requests queue up gave 1.05 times the answers for 1.1 to 1.4 times the CPU
// time, and 4.4 to 5.3 ms instead of 1.6 in the 99th percentile of a thousand containers.
//
// FUSE over io_uring (Linux 6.14) answers 62,000 to 78,000 instead of 37,000 to 43,000
// uptimes a second on two CPUs, but requests in flight when the server dies hang until the
// unmount: NOTIFY_RESEND covers only the queues of /dev/fuse (6.18).
type Server struct {
	conn       *Conn
	journal    *journal.Journal
	crashed    bool
	src        Source
	log        *slog.Logger
	operations [numOpcodes]operation
	tree       *tree
	handles    *handles
	waits      *waits
	hosts      []*HostTree
	pins       *Pins // nil: none
	idmap      bool  // the kernel checks permissions, see permits
	// triggers is nil if no file can be written to.
	triggers Triggers
	// left are the requests of a former process that are to be replayed, suspects those
	// that are to be tried alone. They are the reader's.
	left     []journal.Request
	suspects []suspect

	start time.Time
	// stop ends the reader after its next request. Tests hand a connection over so.
	stop    atomic.Bool
	aborted atomic.Bool
	active  sync.WaitGroup // goroutines: the reader, blocked turns, timers
	pings   sync.Map       // by unique: a chan struct{} that the pong closes
	pulse   *pulse
	rush    rush

	sys sysCalls

	counters counters
}

// NewServer makes a server for a connection, which may have been served before, by this
// process or another. It goes on with what is in the journal: requests are answered, and
// handles keep their content. It takes over handles that it does not know; their content
// is made anew.
func NewServer(c *Conn, src Source, o ServerOptions) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	s := &Server{
		conn:       c,
		journal:    o.Journal,
		crashed:    o.Crashed,
		src:        src,
		log:        o.Log,
		operations: operations(),
		tree:       newTree(o.Nodes),
		waits:      newWaits(o.Workers),
		hosts:      o.Hosts,
		pins:       o.Pins,
		idmap:      o.IDMap,
		triggers:   o.Triggers,
		pulse:      newPulse(),
		rush:       newRush(),
		sys:        sysCalls{rawRead, rawWrite},
		start:      time.Now(),
	}
	s.counters = newCounters(len(o.Nodes))
	if s.journal == nil {
		s.journal = journal.Anonymous(areaLayout())
		runtime.AddCleanup(s, func(j *journal.Journal) { _ = j.Close() }, s.journal)
	}
	s.handles = newHandles(layOut(s.journal))
	return s
}

// Serve answers requests until the file system is unmounted and its last user gone (nil),
// or the connection is aborted (ErrAborted). When it returns, no goroutine of the server
// is left and the Conn may be closed. It must be called once.
func (s *Server) Serve() error {
	s.takeUp()
	s.active.Add(1)
	go s.readLoop()
	s.active.Wait()
	if s.aborted.Load() {
		return ErrAborted
	}
	return nil
}

// Minor returns the level of the kernel's FUSE protocol, 7.Minor, 0 if it is not known.
func (s *Server) Minor() uint32 { return s.conn.minor }

// Panics returns how many panics of the Source were answered EIO.
func (s *Server) Panics() uint64 { return s.counters.panics.Load() }

// readLoop is the reader, until a turn of its blocks or the connection ends.
func (s *Server) readLoop() {
	defer s.active.Done()
	t := s.waits.turn(s)
	defer s.waits.recycle(t)
	for s.next(t) {
		if s.serve(t); t.blocked {
			return
		}
	}
}

// next makes t the turn of the next request: of those that a former process has left
// first, and then of what comes from the kernel. It returns false when there is none
// any more.
func (s *Server) next(t *Turn) bool {
	if s.replay(t) {
		return true
	}
	for delay := minDelay; !s.stop.Load(); {
		n, errno := s.sys.read(s.conn.fd, s.journal.Slot())
		if errno == syscall.ECONNABORTED {
			// The last request before an unmount can end so too: the kernel drops
			// it after it was taken out of the queue ("Must not put request on
			// fpq->io queue", fuse_dev_do_read). Only the next read is certain.
			n, errno = s.sys.read(s.conn.fd, s.journal.Slot())
		}
		switch errno {
		case 0:
			s.pulse.beat()
			t.start(s.journal.Received(n))
			return true
		case syscall.EINTR, syscall.EAGAIN, syscall.ENOENT:
			// A signal, or the request was aborted while it was read.
		case syscall.ENODEV:
			s.waits.end()
			return false
		case syscall.ECONNABORTED:
			s.waits.end()
			s.aborted.Store(true)
			return false
		default:
			// Such as ENOMEM. The connection is there, and who uses it cannot do
			// without a server.
			s.counters.readErrors.Add(1)
			s.log.Error("read "+devFuse, "err", errno)
			time.Sleep(delay)
			delay = min(2*delay, maxDelay)
		}
	}
	return false
}

// minDelay and maxDelay bound how long the server waits before it repeats a system call
// that has failed.
const (
	minDelay = time.Millisecond
	maxDelay = 100 * time.Millisecond
)

// interruptGrace is how long an interrupted request may still finish: with SA_RESTART no
// caller expects EINTR of a read of /proc, and nearly all slow requests take a few
// milliseconds.
const interruptGrace = 100 * time.Millisecond

// interrupt lets go of a blocked request whose caller got a signal: after a grace it is
// answered EINTR, and the result of the work is dropped. fstat(2) gets a bound instead, as
// no program expects EINTR of it. A request that is not pending has been answered already.
// There is no reply to an INTERRUPT itself.
func (s *Server) interrupt(t *Turn) (int, error) {
	unique := t.interrupted
	if !s.waits.isPending(unique) {
		return 0, errNoReply
	}
	s.letGo(unique)
	return 0, errNoReply
}

// letGo answers a blocked request after a grace. One that is delayed goes on instead, and
// has another grace.
func (s *Server) letGo(unique uint64) {
	s.active.Add(1)
	time.AfterFunc(interruptGrace, func() {
		defer s.active.Done()
		if s.waits.cutShort(unique) {
			s.letGo(unique)
			return
		}
		entry, sized, ok := s.waits.interrupt(unique)
		if !ok {
			return
		}
		out := make([]byte, smallReply)
		if sized != nil {
			s.send(out, unique, s.placeAttr(out, sized, sized.anyBound()), 0)
		} else {
			s.send(out, unique, 0, syscall.EINTR)
		}
		entry.Done()
	})
}

// notifyReply takes the answer to a ping.
func (s *Server) notifyReply(t *Turn) (int, error) {
	if pong, ok := s.pings.LoadAndDelete(t.unique); ok {
		close(pong.(chan struct{}))
	}
	return 0, errNoReply
}
