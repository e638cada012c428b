// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/fdconn"
)

// PinVerb is the hidden verb that runs OpenPins in a process of its own.
const PinVerb = "open-pins"

// openerIdle is how long the process of an opener lives after its last request. Workers
// open all pins at once, and programs many of the host's files one after another.
const openerIdle = 2 * time.Second

// opener opens files of the mount for the worker, in a process of its own that has no
// descriptor of /dev/fuse. A worker that opened them itself could be killed while it has
// its own OPEN in hand: the kernel does not end a process that waits for an answer, and
// the next worker, who would answer, is not started before.
type opener struct {
	mu   sync.Mutex
	conn *fdconn.Conn // to the process; nil if there is none
	idle *time.Timer
}

func newOpener() *opener {
	o := &opener{}
	o.idle = time.AfterFunc(openerIdle, o.end)
	return o
}

// open is an fs.OpenFunc.
func (o *opener) open(root int, path string, announce func(thread int)) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.idle.Stop()
	defer o.idle.Reset(openerIdle)
	if o.conn == nil {
		if err := o.start(); err != nil {
			return -1, fmt.Errorf("start %s: %w", PinVerb, err)
		}
	}
	fd, err := o.ask(root, path, announce)
	if _, isAnswer := err.(unix.Errno); err != nil && !isAnswer {
		_ = o.conn.Close() // the process ends by it
		o.conn = nil
		err = fmt.Errorf("%s: %w", PinVerb, err)
	}
	return fd, err
}

func (o *opener) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn != nil {
		_ = o.conn.Close() // the process ends by it
		o.conn = nil
	}
}

// start starts the process.
func (o *opener) start() error {
	ours, theirs, err := fdconn.Pair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", PinVerb, strconv.Itoa(openerFD))
	cmd.Args[0] = "vprocfs"
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, ours.Close())
	}
	go func() { _ = cmd.Wait() }() // no zombie
	o.conn = ours
	return nil
}

// ask sends the path and the root. The answers are the thread that is about to open the
// file, and, once that is announced, an errno, 0 with the descriptor. An error that is an
// unix.Errno is that of open(2).
func (o *opener) ask(root int, path string, announce func(thread int)) (fd int, err error) {
	thread, _, err := o.roundTrip(path, root)
	if err != nil {
		return -1, err
	}
	announce(thread)
	errno, fd, err := o.roundTrip("go", -1)
	if err == nil && fd < 0 {
		err = unix.Errno(errno)
	}
	return fd, err
}

// roundTrip sends a text, with a descriptor if it is not negative, and returns the number
// that comes back.
func (o *opener) roundTrip(text string, send int) (number, fd int, err error) {
	if err := o.conn.Send(text, send); err != nil {
		return 0, -1, fmt.Errorf("send: %w", err)
	}
	answer, fd, err := o.conn.Receive()
	if err != nil {
		return 0, -1, fmt.Errorf("receive: %w", err)
	}
	number, err = strconv.Atoi(answer)
	return number, fd, err
}

// openerFD is the socket that OpenPins is started with.
const openerFD = 3

// OpenPins is the process of an opener. It ends with its socket.
func OpenPins() error {
	runtime.LockOSThread()
	conn, err := fdconn.New(os.NewFile(openerFD, PinVerb))
	if err != nil {
		return err
	}
	for {
		path, root, err := conn.Receive()
		if err == io.EOF {
			return nil
		}
		if err != nil || root < 0 {
			return errors.Join(err, errors.New("no mount to open a file of"))
		}
		if err := conn.Send(strconv.Itoa(unix.Gettid()), -1); err != nil {
			return err
		}
		if _, _, err := conn.Receive(); err != nil {
			return err
		}
		fd, err := fs.OpenPin(root, path)
		unix.Close(root)
		var errno unix.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = unix.EIO
		}
		err = conn.Send(strconv.Itoa(int(errno)), fd)
		if fd >= 0 {
			unix.Close(fd)
		}
		if err != nil {
			return err
		}
	}
}
