// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"bytes"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
)

// deed is the answer to one call: what to write to the caller's memory, and what the call
// returns. One process makes it from the numbers; another one, the writer, may carry it out.
type deed struct {
	op     uint32
	length uint32 // of data, or of the mask at addr
	addr   uint64
	value  int64 // what the call returns
	data   [maxMask]byte
}

// What a deed does.
const (
	// opWrite writes data at addr.
	opWrite = 1 + iota
	// opRestore puts the caller on all CPUs if the mask at addr is that in data.
	opRestore
)

func (d *deed) write(length int, addr uint64, value int64) {
	d.op, d.length, d.addr, d.value = opWrite, uint32(length), addr, value
}

func (d *deed) restore(length int, addr uint64) {
	d.op, d.length, d.addr, d.value = opRestore, uint32(length), addr, 0
}

// respond does d for the thread c, which waits at the call n, and returns the response. If it
// cannot be done the kernel is to carry out the call.
func (d *deed) respond(n *seccomp.Notification, c *caller) (seccomp.Response, outcome, error) {
	if err := d.do(c); err != nil {
		return n.Continue(), outcomeOf(err), err
	}
	return n.Return(d.value), answered, nil
}

func (d *deed) do(c *caller) error {
	if d.length > maxMask {
		return errLeave // no deed of ours
	}
	switch d.op {
	case opWrite:
		return c.write(d.data[:d.length], d.addr)
	case opRestore:
		return d.doRestore(c)
	}
	return errLeave
}

func (d *deed) doRestore(c *caller) error {
	var mask [maxMask]byte
	asked := mask[:d.length]
	if err := c.read(asked, d.addr); err != nil {
		return err
	}
	if !bytes.Equal(asked, d.data[:d.length]) || len(bytes.Trim(d.data[d.length:], "\x00")) > 0 {
		return errLeave
	}
	for i := range mask {
		mask[i] = 0xff
	}
	if !c.valid() {
		return errGone
	}
	return schedSetAffinity(c.tid, mask[:])
}

// outcomeOf returns what became of a call that the kernel carries out because of err.
func outcomeOf(err error) outcome {
	switch {
	case errors.Is(err, errLeave):
		return left
	case errors.Is(err, errGone):
		return gone
	}
	return failure
}

// schedGetAffinity sets mask to the CPUs of a thread, and returns the size of the kernel's
// own mask, or of mask if that is smaller.
func schedGetAffinity(tid int, mask []byte) (int, error) {
	n, _, e := unix.Syscall(unix.SYS_SCHED_GETAFFINITY, uintptr(tid), uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func schedSetAffinity(tid int, mask []byte) error {
	_, _, e := unix.Syscall(unix.SYS_SCHED_SETAFFINITY, uintptr(tid), uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])))
	if e != 0 {
		return e
	}
	return nil
}
