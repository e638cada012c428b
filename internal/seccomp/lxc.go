// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LXC keeps the listener to itself. Its monitor receives the notifications, sends each
// over a SOCK_SEQPACKET connection (lxc.seccomp.notify.proxy), and waits up to 30 s for
// the response. A message is a header, a notification, a response to be filled in and a
// cookie (struct seccomp_notify_proxy_msg, src/lxc/lxcseccomp.h, since 4.0); the reply is
// the same without the cookie. With it come three descriptors: the caller's directory in
// /proc, its memory, and the listener.

// LXCRequest is a notification from LXC. Close must be called.
type LXCRequest struct {
	Notification
	// Monitor is the pid of the monitor, and Init of the container's init, as the monitor
	// sees them.
	Monitor, Init int
	// Cookie is lxc.seccomp.notify.cookie.
	Cookie string
	// Memory is the caller's /proc/TID/mem, open for reading and writing. The monitor
	// has checked that it is the caller's.
	Memory int

	fds []int
}

// Close closes the descriptors.
func (r *LXCRequest) Close() {
	for _, fd := range r.fds {
		unix.Close(fd)
	}
	r.fds = nil
}

// lxcHeader is struct seccomp_notify_proxy_msg.
type lxcHeader struct {
	reserved      uint64
	monitor, init int32
	// sizes are those of struct seccomp_notif, seccomp_notif_resp and seccomp_data.
	sizes  [3]uint16
	_      uint16
	cookie uint64 // the length
}

const (
	lxcHeaderSize = 32
	lxcReplySize  = lxcHeaderSize + notificationSize + responseSize
	lxcRights     = 3
	dataSize      = 64 // struct seccomp_data
	// maxCookie bounds a cookie, in bytes. LXC does not.
	maxCookie = 4096
)

var _ [lxcHeaderSize]byte = [unsafe.Sizeof(lxcHeader{})]byte{}

// ReceiveLXC waits for a notification. It returns io.EOF if the monitor has closed the
// connection.
func ReceiveLXC(c *net.UnixConn) (*LXCRequest, error) {
	b, rights := make([]byte, lxcReplySize+maxCookie), make([]byte, unix.CmsgSpace(maxRights*4))
	n, rightsLen, flags, _, err := c.ReadMsgUnix(b, rights)
	fds, rightsErr := parseRights(rights[:rightsLen])
	r := &LXCRequest{fds: fds}
	switch {
	case err == nil && n == 0, errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		err = io.EOF
	case err != nil:
		err = fmt.Errorf("message of LXC: %w", err)
	case rightsErr != nil:
		err = fmt.Errorf("message of LXC: %w", rightsErr)
	case flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0:
		err = errors.New("message of LXC: too long")
	case len(fds) != lxcRights:
		err = fmt.Errorf("message of LXC: %d descriptors, want %d", len(fds), lxcRights)
	default:
		err = r.parse(b[:n])
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	r.Memory = fds[1]
	return r, nil
}

// parse reads a message.
func (r *LXCRequest) parse(b []byte) error {
	if len(b) < lxcReplySize {
		return fmt.Errorf("message of LXC: %d bytes, want at least %d", len(b), lxcReplySize)
	}
	var h lxcHeader
	copy(bytesOf(&h), b)
	if h.sizes != [3]uint16{notificationSize, responseSize, dataSize} {
		return fmt.Errorf("message of LXC: structs of %v bytes", h.sizes)
	}
	if h.reserved != 0 || h.cookie != uint64(len(b)-lxcReplySize) {
		return fmt.Errorf("message of LXC: a cookie of %d bytes in a message of %d", h.cookie, len(b))
	}
	r.Monitor, r.Init = int(h.monitor), int(h.init)
	copy(bytesOf(&r.Notification), b[lxcHeaderSize:])
	r.Cookie = string(b[lxcReplySize:])
	return nil
}

// Reply sends the response to LXC, which hands it to the kernel.
func (r *LXCRequest) Reply(c *net.UnixConn, resp *Response) error {
	b := r.appendReply(make([]byte, 0, lxcReplySize), resp)
	_, err := c.Write(b)
	return err
}

func (r *LXCRequest) appendReply(b []byte, resp *Response) []byte {
	h := lxcHeader{
		monitor: int32(r.Monitor), init: int32(r.Init),
		sizes:  [3]uint16{notificationSize, responseSize, dataSize},
		cookie: uint64(len(r.Cookie)),
	}
	b = append(b, bytesOf(&h)...)
	b = append(b, bytesOf(&r.Notification)...)
	return append(b, bytesOf(resp)...)
}

// bytesOf returns the memory of a struct of the kernel, which has no pointers.
func bytesOf[T lxcHeader | Notification | Response](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
