// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"vprocfs/fs/journal"
)

// Opcodes of include/uapi/linux/fuse.h (7.45). Those that are not here are
// answered ENOSYS.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opSetattr     = 4
	opReadlink    = 5
	opSymlink     = 6
	opMknod       = 8
	opMkdir       = 9
	opUnlink      = 10
	opRmdir       = 11
	opRename      = 12
	opLink        = 13
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opSetxattr    = 21
	opRemovexattr = 24
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opAccess      = 34
	opCreate      = 35
	opInterrupt   = 36
	opDestroy     = 38
	opIoctl       = 39
	opPoll        = 40
	opNotifyReply = 41
	opBatchForget = 42
	opRename2     = 45
	opTmpfile     = 51
)

const (
	inHeaderSize  = int(unsafe.Sizeof(fuse.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fuse.OutHeader{}))

	// requestSize is the size in bytes of a request buffer: FUSE_MIN_READ_BUFFER, the
	// least that the kernel accepts (fs/fuse/dev.c, fuse_dev_do_read). Nothing but a
	// trigger's line is ever written, so maxWrite is the kernel's minimum. With 128 KiB
	// open, read, read, close takes 0.95 to 0.99 times as long.
	requestSize = journal.SlotSize
	maxWrite    = 4096

	// maxPages bounds a READ, in pages of 4096 bytes: with 256, the kernel's default
	// limit, one read(2) of up to 1 MiB is one READ.
	maxPages = 256

	// maxBackground is how many requests that nobody waits for, the RELEASEs, the kernel
	// puts into the queue at once. With its default of 12 those of 600 threads that open,
	// read and close fall behind and fill its memory (626,000 after three minutes of
	// 1,000 containers on a busy machine) and our table of handles. With 1024 those of
	// 3,000 threads keep up. While 45,000 files are closed at once, another's read takes
	// 31 to 48 ms at most; with 65,535 it took 137 and 180.
	// A daemon without CAP_SYS_ADMIN gets max_user_bgreq at most (a parameter of the fuse
	// module; 8,000 with 24 GiB of memory).
	maxBackground = 1024
)

// What go-fuse does not export.
const (
	// Codes of enum fuse_notify_code: FUSE_NOTIFY_POLL, and FUSE_NOTIFY_RETRIEVE (Linux
	// 2.6.36).
	notifyPoll     = 1
	notifyRetrieve = 5
	// parallelDirectWrites is FOPEN_PARALLEL_DIRECT_WRITES.
	parallelDirectWrites = 1 << 6
)

// pollIn is struct fuse_poll_in, pollOut struct fuse_poll_out.
type (
	pollIn struct {
		fuse.InHeader
		Fh, Kh        uint64
		Flags, Events uint32
	}
	pollOut struct {
		Revents, _ uint32
	}
	// wakeupOut is struct fuse_notify_poll_wakeup_out, retrieveOut struct
	// fuse_notify_retrieve_out.
	wakeupOut   struct{ Kh uint64 }
	retrieveOut struct {
		Unique  uint64
		NodeID  NodeID
		_       uint64 // offset
		Size, _ uint32
	}
)

// notify sends the kernel a message that is no reply: its unique is 0, and its error the
// code.
func notify[T wakeupOut | retrieveOut](c *Conn, code int32, body T) syscall.Errno {
	message := struct {
		fuse.OutHeader
		body T
	}{body: body}
	size := unsafe.Sizeof(message)
	message.Length, message.Status = uint32(size), code
	return rawWrite(c.fd, unsafe.Slice((*byte)(unsafe.Pointer(&message)), size))
}

// wireStruct is any of the fixed-size structs that the kernel sends, each with
// the InHeader in front.
type wireStruct interface {
	fuse.InHeader | fuse.InitIn | fuse.GetAttrIn | fuse.OpenIn | fuse.ReadIn | fuse.ReleaseIn | fuse.InterruptIn | fuse.AccessIn |
		fuse.WriteIn | fuse.SetAttrIn | pollIn
}

// decode returns the struct at the start of the request b, nil if b is too
// short. The result points into b, which must be 8-byte aligned.
func decode[T wireStruct](b []byte) *T {
	var t T
	if uintptr(len(b)) < unsafe.Sizeof(t) {
		return nil
	}
	return (*T)(unsafe.Pointer(&b[0]))
}

// wireReply is any of the fixed-size structs that go into a reply.
type wireReply interface {
	fuse.OutHeader | fuse.InitOut | fuse.EntryOut | fuse.AttrOut | fuse.OpenOut | fuse.StatfsOut | fuse.WriteOut | pollOut
}

// place zeroes a T behind the header of the reply buffer out, in its capacity, and
// returns it with its size. out must be 8-byte aligned.
func place[T wireReply](out []byte) (*T, int) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	p := (*T)(unsafe.Pointer(&out[outHeaderSize : outHeaderSize+size][0]))
	*p = zero
	return p, size
}

// putHeader writes the reply header for n bytes of payload, or for the error
// number errno (n is then ignored), and returns the length of the reply.
func putHeader(out []byte, unique uint64, n int, errno syscall.Errno) int {
	h := (*fuse.OutHeader)(unsafe.Pointer(&out[:outHeaderSize][0]))
	if errno != 0 {
		n = 0
	}
	*h = fuse.OutHeader{Length: uint32(outHeaderSize + n), Status: -int32(errno), Unique: unique}
	return outHeaderSize + n
}

// toErrno is the one place where errors become what a caller sees: the
// syscall.Errno that err wraps, else EIO. The kernel accepts 1 to 511
// (fs/fuse/dev.c, fuse_dev_do_write).
func toErrno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno > 0 && errno < 512 {
		return errno
	}
	return syscall.EIO
}

// sysCalls are the system calls on /dev/fuse.
type sysCalls struct {
	read  func(fd int, b []byte) (int, syscall.Errno)
	write func(fd int, b []byte) syscall.Errno
}

// rawRead and rawWrite are read(2) and write(2) on /dev/fuse. A read parks, so the
// scheduler must know of it (Syscall). A write only copies: with Syscall open, read, read,
// close took 27.6 instead of 24.1 us (6.18, same CPU).
func rawRead(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

func rawWrite(fd int, b []byte) syscall.Errno {
	_, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return errno
}
