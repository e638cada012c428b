// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// residentArg is the argv[0] of a resident helper.
const residentArg = "vprocfs-attach-resident"

// residentPatience is how long a job of a resident helper may take. After that a
// helper of its own does it.
const residentPatience = 2 * time.Second

// Resident attaches files like Attach does, within a millisecond: its helper process
// is started once and does many jobs (server.go). It is safe for concurrent use.
// AttachAlone stands beside it, for what hangs.
//
// A job that hangs delays no other. The helper gets no new job then, and is killed
// when its other jobs have ended.
type Resident struct {
	dir      string
	patience time.Duration

	mu  sync.Mutex
	cur *helper // nil if the next job must start one
}

// NewResident returns a Resident for the daemon whose mount point is dir.
func NewResident(dir string) *Resident { return &Resident{dir: dir, patience: residentPatience} }

// Start attaches all files in the mount namespace of process pid, which must have inode
// ns. It does not wait: done is called on another goroutine, with the files that could
// not be attached. done must not wait for a job.
func (r *Resident) Start(pid int, ns uint64, done func([]Result, error)) {
	r.start(job{PID: pid, NS: ns, Dir: r.dir}, done)
}

// IsHung reports whether an error says that the container or the daemon did not answer
// in time.
func IsHung(err error) bool { return errors.Is(err, errHung) }

// IsGone reports whether an error says that the process has ended.
func IsGone(err error) bool { return errors.Is(err, errGone) }

// IsOccupied reports whether an error of a file says that another program has mounted
// something over it.
func IsOccupied(err error) bool { return errors.Is(err, errOccupied) }

// AttachAlone is Attach in a helper process of its own, which may take longer.
func (r *Resident) AttachAlone(ctx context.Context, pid int, ns uint64) ([]Result, error) {
	return run(ctx, job{PID: pid, NS: ns, Dir: r.dir}, patience)
}

// Prepare starts the helper, so that the first Start need not.
func (r *Resident) Prepare() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ensure()
}

// Close ends the helper. Jobs that run may or may not have been done.
func (r *Resident) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cur != nil {
		r.cur.kill()
		r.cur = nil
	}
}

// call is a job that a resident helper does.
type call struct {
	done     func([]Result, error)
	deadline time.Time
}

// helper is a resident helper process.
type helper struct {
	cmd    *exec.Cmd
	socket *os.File        // of type SOCK_SEQPACKET: a message is a request or a reply
	raw    syscall.RawConn // of socket
	dead   chan struct{}   // closed when it has ended

	mu      sync.Mutex
	calls   map[int]call
	last    int  // id of the last call
	retired bool // it gets no further job
	ended   bool // its calls have ended
	// overdue runs when the first call to hang would hang. It is nil while there is none.
	overdue *time.Timer
	due     time.Time // when overdue runs
}

// request is a job for a resident helper, and reply the answer to it.
type (
	request struct {
		ID  int
		Job job
	}
	reply struct {
		ID int
		// answer is that of the whole job. Its Target is empty.
		answer
		Failed []answer `json:",omitempty"` // the files that were not attached
	}
)

// maxMessage bounds a request and a reply, in bytes.
const maxMessage = 64 << 10

// ensure starts a helper if there is none. mu is held.
func (r *Resident) ensure() error {
	if r.cur != nil && r.cur.usable() {
		return nil
	}
	h, err := startHelper()
	if err != nil {
		return fmt.Errorf("start a resident helper: %w", err)
	}
	r.cur = h
	return nil
}

// usable reports whether the helper takes jobs.
func (h *helper) usable() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.retired && !h.ended
}

// start has the helper do a job.
func (r *Resident) start(j job, done func([]Result, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range 2 { // it may end, or be retired, just now
		err := r.ensure()
		if err == nil {
			err = r.cur.start(j, r.patience, done)
		}
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrEnded):
			continue
		case r.cur != nil:
			r.cur.kill()
			r.cur = nil
		}
		go done(nil, fmt.Errorf("the resident helper: %w", err))
		return
	}
	go done(nil, ErrEnded)
}

// ErrEnded is the error of the calls of a resident helper that has ended. It may have done
// none, some or all of the work.
var ErrEnded = errors.New("the resident helper has ended")

// start hands over a job. It never waits: the helper reads at once, whatever its jobs do.
// If it is stopped the socket may be full. After an error done is not called.
func (h *helper) start(j job, patience time.Duration, done func([]Result, error)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.retired {
		return ErrEnded
	}
	h.last++
	text, err := json.Marshal(request{ID: h.last, Job: j})
	if err != nil {
		return err
	}
	var sendErr error
	err = h.raw.Write(func(fd uintptr) bool {
		sendErr = unix.Send(int(fd), text, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	if err = errors.Join(err, sendErr); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	h.calls[h.last] = call{done, deadline}
	h.wakeBy(deadline)
	return nil
}

// wakeBy has expire run at a time, or before. mu is held.
func (h *helper) wakeBy(at time.Time) {
	switch {
	case h.overdue == nil:
		h.overdue = time.AfterFunc(time.Until(at), h.expire)
	case at.Before(h.due):
		h.overdue.Reset(time.Until(at))
	default:
		return
	}
	h.due = at
}

// expire ends the calls that have hung, and retires the helper if there are any.
func (h *helper) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.overdue = nil
	for id, c := range h.calls {
		if now.Before(c.deadline) {
			h.wakeBy(c.deadline)
			continue
		}
		delete(h.calls, id)
		h.retired = true
		go c.done(nil, fmt.Errorf("no answer in time: %w", errHung))
	}
	h.endIfIdle()
}

// endIfIdle kills a helper that is retired and has nothing to do. mu is held.
func (h *helper) endIfIdle() {
	if h.retired && len(h.calls) == 0 {
		h.kill()
	}
}

// take removes a call.
func (h *helper) take(id int) (call, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.calls[id]
	delete(h.calls, id)
	h.endIfIdle()
	return c, ok
}

// end ends all calls of a helper that has ended.
func (h *helper) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	for _, c := range h.calls {
		go c.done(nil, ErrEnded)
	}
	clear(h.calls)
	close(h.dead)
	h.kill()
}

// startHelper starts a resident helper.
func startHelper() (*helper, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket")
	defer theirs.Close()
	if err := unix.SetNonblock(fds[0], true); err != nil { // for deadlines
		unix.Close(fds[0])
		return nil, err
	}
	socket := os.NewFile(uintptr(fds[0]), "socket")
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{residentArg}
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=200"}
	cmd.Stdin = theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		socket.Close()
		return nil, err
	}
	raw, err := socket.SyscallConn()
	if err != nil { // it is open
		socket.Close()
		return nil, err
	}
	h := &helper{cmd: cmd, socket: socket, raw: raw, dead: make(chan struct{}), calls: make(map[int]call)}
	go h.receive()
	return h, nil
}

// receive hands the replies to the calls until the helper ends.
func (h *helper) receive() {
	buf := make([]byte, maxMessage)
	for {
		n, err := h.socket.Read(buf)
		var a reply
		if err != nil || json.Unmarshal(buf[:n], &a) != nil {
			break
		}
		c, ok := h.take(a.ID)
		if !ok {
			continue // it came too late
		}
		var failed []Result
		for _, f := range a.Failed {
			failed = append(failed, f.result())
		}
		c.done(failed, a.err())
	}
	h.end()
	_ = h.cmd.Wait() // it was killed; this may last as long as one of its threads hangs
}

// kill ends the helper. A thread of it that hangs may keep the process for a while.
func (h *helper) kill() {
	_ = h.cmd.Process.Kill() // an error means that it has ended
	h.socket.Close()
}
