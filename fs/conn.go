// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// minMinor is FUSE 7.28 (Linux 4.20), the first with max_pages, without which a
// READ would be as small as max_write.
const minMinor = 28

// Conn is an initialised FUSE connection: a descriptor of /dev/fuse, which it owns.
// Another process that has a duplicate can serve on. Its methods are safe for concurrent
// use, except Close.
type Conn struct {
	fd int
	// minor is the kernel's FUSE level, 7.minor; 0 if another process did the handshake.
	minor uint32
}

// handshake reads the INIT request from a descriptor of /dev/fuse that has just
// been mounted, answers it, and takes the descriptor over if it succeeds.
func handshake(fd int, idmap bool) (*Conn, error) {
	buf := make([]byte, requestSize)
	n, errno := rawRead(fd, buf)
	for errno == unix.EINTR {
		n, errno = rawRead(fd, buf)
	}
	if errno != 0 {
		return nil, fmt.Errorf("read the fuse init request: %w", errno)
	}
	answer, minor, err := answerInit(buf[:n], idmap)
	if err != nil {
		return nil, err
	}
	if errno := rawWrite(fd, answer); errno != 0 {
		return nil, fmt.Errorf("answer the fuse init request: %w", errno)
	}
	return &Conn{fd, minor}, nil
}

// answerInit returns the answer to an INIT request, header included, and the kernel's minor.
// With idmap it returns ErrNoIDMap if the kernel does not offer FUSE_ALLOW_IDMAP.
func answerInit(request []byte, idmap bool) (answer []byte, minor uint32, err error) {
	in, ok := decodeInit(request)
	if !ok {
		return nil, 0, errors.New("the first fuse request is not init: the descriptor is in use")
	}
	if in.Major != 7 || in.Minor < minMinor {
		return nil, 0, fmt.Errorf("the kernel speaks fuse %d.%d: need 7.%d (Linux 4.20)", in.Major, in.Minor, minMinor)
	}
	// A flag that is not wanted is one more way to be asked for something.
	const wanted uint64 = fuse.CAP_ATOMIC_O_TRUNC | // O_TRUNC comes with OPEN, not as a SETATTR
		fuse.CAP_PARALLEL_DIROPS | // lookups in one directory do not wait for each other
		fuse.CAP_ABORT_ERROR | // read(2) returns ECONNABORTED after an abort, ENODEV after an unmount
		fuse.CAP_MAX_PAGES | // READ larger than max_write
		fuse.CAP_INIT_EXT
	flags := in.Flags64() & wanted
	if idmap {
		if flags |= in.Flags64() & fuse.CAP_ALLOW_IDMAP; flags&fuse.CAP_ALLOW_IDMAP == 0 {
			return nil, 0, ErrNoIDMap
		}
	}

	answer = make([]byte, requestSize)
	out, size := place[fuse.InitOut](answer)
	out.Major = 7
	out.Minor = in.Minor
	out.Flags = uint32(flags)
	out.Flags2 = uint32(flags >> 32)
	out.MaxWrite = maxWrite
	out.MaxPages = maxPages
	out.MaxBackground = maxBackground
	out.TimeGran = 1
	return answer[:putHeader(answer, in.Unique, size, 0)], in.Minor, nil
}

// decodeInit reads an INIT request. Kernels before 7.36 (Linux 5.17) send only
// the first 16 bytes of its body; the rest is then 0.
func decodeInit(request []byte) (in fuse.InitIn, ok bool) {
	var padded [unsafe.Sizeof(in)]byte
	copy(padded[:], request)
	in = *(*fuse.InitIn)(unsafe.Pointer(&padded))
	return in, len(request) >= inHeaderSize+16 && in.Opcode == opInit
}

// FD returns the descriptor, which stays the Conn's.
func (c *Conn) FD() int { return c.fd }

// Close closes the descriptor. If it is the last one, the kernel aborts the connection.
// Close does not wake a Server: call it after Serve has returned.
func (c *Conn) Close() error {
	if c.fd < 0 {
		return fmt.Errorf("close /dev/fuse: %w", syscall.EBADF)
	}
	fd := c.fd
	c.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close /dev/fuse: %w", err)
	}
	return nil
}
