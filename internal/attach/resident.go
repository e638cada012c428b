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

// Attach attaches all files in the mount namespace of process pid, which must have
// inode ns. It returns those that could not be attached.
func (r *Resident) Attach(ctx context.Context, pid int, ns uint64) ([]Result, error) {
	return r.do(ctx, job{PID: pid, NS: ns, Dir: r.dir})
}

// do has the helper do a job.
func (r *Resident) do(ctx context.Context, j job) ([]Result, error) {
	h, c, err := r.submit(j)
	if err != nil {
		return nil, err
	}
	defer r.finish(h)
	limit := time.NewTimer(r.patience)
	defer limit.Stop()
	select {
	case <-c.done:
		return c.results, c.err
	case <-h.dead:
		return nil, errors.New("the resident helper has ended")
	case <-limit.C:
		r.retire(h)
		return nil, fmt.Errorf("no answer in %s: %w", r.patience, errHung)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
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

// Start starts the helper, so that the first Attach need not.
func (r *Resident) Start() error {
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
	results []Result
	err     error
	done    chan struct{} // closed when results and err are complete
}

// helper is a resident helper process.
type helper struct {
	cmd    *exec.Cmd
	socket *os.File      // of type SOCK_SEQPACKET: a message is a request or a reply
	dead   chan struct{} // closed when it has ended

	mu    sync.Mutex
	calls map[int]*call
	last  int // id of the last call

	// Both belong to Resident.mu.
	running int // calls whose caller waits
	retired bool
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
	if r.cur != nil {
		select {
		case <-r.cur.dead:
			r.cur = nil
		default:
			return nil
		}
	}
	h, err := startHelper()
	if err != nil {
		return fmt.Errorf("start a resident helper: %w", err)
	}
	r.cur = h
	return nil
}

// submit hands a job to the helper.
func (r *Resident) submit(j job) (*helper, *call, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.ensure(); err != nil {
		return nil, nil, err
	}
	h := r.cur
	c := &call{done: make(chan struct{})}
	h.mu.Lock()
	h.last++
	id := h.last
	h.calls[id] = c
	h.mu.Unlock()
	text, err := json.Marshal(request{ID: id, Job: j})
	if err == nil {
		// It reads at once, whatever its jobs do. If it is stopped the socket may be
		// full: then it is replaced.
		_ = h.socket.SetWriteDeadline(time.Now().Add(r.patience))
		_, err = h.socket.Write(text)
	}
	if err != nil {
		h.kill()
		r.cur = nil
		return nil, nil, fmt.Errorf("write to the resident helper: %w", err)
	}
	h.running++
	return h, c, nil
}

// finish notes that a caller no longer waits for a job of h.
func (r *Resident) finish(h *helper) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.running--; h.retired && h.running == 0 {
		h.kill()
	}
}

// retire gives no further job to h.
func (r *Resident) retire(h *helper) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.retired = true
	if r.cur == h {
		r.cur = nil
	}
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
	h := &helper{cmd: cmd, socket: socket, dead: make(chan struct{}), calls: make(map[int]*call)}
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
		h.mu.Lock()
		c := h.calls[a.ID]
		delete(h.calls, a.ID)
		h.mu.Unlock()
		if c == nil {
			continue
		}
		for _, f := range a.Failed {
			c.results = append(c.results, f.result())
		}
		c.err = a.err()
		close(c.done)
	}
	close(h.dead)
	h.kill()
	_ = h.cmd.Wait() // it was killed; this may last as long as one of its threads hangs
}

// kill ends the helper. A thread of it that hangs may keep the process for a while.
func (h *helper) kill() {
	_ = h.cmd.Process.Kill() // an error means that it has ended
	h.socket.Close()
}
