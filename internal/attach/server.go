// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// server is a resident helper. Each of its threads takes a job from the socket, does it
// in the mount namespace of a container, comes back and takes the next. When the last
// thread that waits takes one, there is another: a job that hangs delays no other.
type server struct {
	socket    int // blocking
	host      host
	namespace int          // descriptor of the own mount namespace
	waiting   atomic.Int32 // threads that wait for a job
	end       chan error   // gets the reason why there are no more jobs
}

// maxWaiting is how many threads wait for a job. Others end.
const maxWaiting = 2

// serve does the jobs that come from a socket until the other end closes it.
func serve(socket int) error {
	if err := hide(); err != nil {
		return err
	}
	s := &server{socket: socket, end: make(chan error, 1)}
	var err error
	if s.namespace, err = unix.Open(hostProc+"/self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the own mount namespace: %w", err)
	}
	go s.thread()
	return <-s.end
}

// thread does jobs, one after another.
func (s *server) thread() {
	runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
	if unix.Gettid() == unix.Getpid() {
		// The first thread does not end, and would keep a container's mount namespace
		// alive.
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.thread()
		}()
		<-done
		runtime.UnlockOSThread()
		return
	}
	buf := make([]byte, maxMessage)
	for {
		if s.waiting.Add(1) > maxWaiting {
			s.waiting.Add(-1)
			return
		}
		n, err := receiveRequest(s.socket, buf)
		if s.waiting.Add(-1) == 0 {
			go s.thread()
		}
		if err != nil || n == 0 {
			s.stop(err)
			return
		}
		var r request
		if err := json.Unmarshal(buf[:n], &r); err != nil {
			s.stop(err)
			return
		}
		if err := s.do(&r); err != nil {
			s.stop(err)
			return
		}
		if unix.Setns(s.namespace, unix.CLONE_NEWNS) != nil {
			return
		}
	}
}

// receiveRequest waits for a message.
func receiveRequest(socket int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(socket, buf)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// stop ends serve.
func (s *server) stop(err error) {
	select {
	case s.end <- err:
	default: // it has ended
	}
}

// do does a job and sends the reply.
func (s *server) do(r *request) error {
	a := reply{ID: r.ID}
	err := r.Job.do(&s.host, func(res Result) error {
		if res.Err != nil {
			a.Failed = append(a.Failed, newAnswer(res))
		}
		return nil
	})
	a.answer = endAnswer(err)
	text, err := json.Marshal(a)
	if err == nil && len(text) > maxMessage {
		text, err = json.Marshal(reply{ID: r.ID, answer: answer{Error: "too many files cannot be attached"}})
	}
	if err != nil {
		return err
	}
	// If it cannot be sent, nobody waits for it.
	_, _ = unix.Write(s.socket, text)
	return nil
}
