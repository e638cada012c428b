// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The proc connector (linux/connector.h, linux/cn_proc.h): a message is a nlmsghdr,
// a cn_msg and a proc_event.
const (
	connectorIdx    = 1 // CN_IDX_PROC, also the multicast group
	connectorVal    = 1 // CN_VAL_PROC
	connectorListen = 1 // PROC_CN_MCAST_LISTEN
	connectorNone   = 0 // PROC_EVENT_NONE: the answer to listen
	connectorExec   = 2 // PROC_EVENT_EXEC
	sizeofCnMsg     = 20
	// Offsets after both headers.
	connectorWhat = 0  // u32
	connectorData = 16 // of an exec: u32 pid, u32 tgid; of an answer: u32 errno
)

// connector reports the programs that processes execute, from the kernel's proc
// connector. Before Linux 6.6 that needs CAP_NET_ADMIN.
type connector struct {
	fd  int
	buf [8192]byte
}

// errNoAnswer is returned if the kernel does not answer a listener: it does so only
// in the first user and pid namespace.
var errNoAnswer = errors.New("no answer: not in the first pid namespace")

func newConnector() (*connector, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("socket of the proc connector: %w", err)
	}
	c := &connector{fd: fd}
	if err := c.listen(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("proc connector: %w", err)
	}
	return c, nil
}

// listen subscribes to the events and waits for the kernel's answer.
func (c *connector) listen() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (connectorIdx - 1)}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	// The answer comes at once, if one comes.
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return fmt.Errorf("setsockopt SO_RCVTIMEO: %w", err)
	}
	if err := unix.Sendto(c.fd, listenMessage(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("sendto: %w", err)
	}
	for answered := false; !answered; {
		n, _, err := unix.Recvfrom(c.fd, c.buf[:], 0)
		if errors.Is(err, unix.EAGAIN) {
			return errNoAnswer
		}
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("recvfrom: %w", err)
		}
		messages(c.buf[:max(n, 0)], func(what uint32, data []byte) {
			if what == connectorNone && !answered {
				answered = true
				if errno := binary.NativeEndian.Uint32(data); errno != 0 {
					err = unix.Errno(errno)
				}
			}
		})
		if answered && err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	return unix.SetNonblock(c.fd, true)
}

// listenMessage is the message that subscribes to the events.
func listenMessage() []byte {
	m := make([]byte, unix.SizeofNlMsghdr+sizeofCnMsg+4)
	binary.NativeEndian.PutUint32(m[0:], uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.NLMSG_DONE)
	cn := m[unix.SizeofNlMsghdr:]
	binary.NativeEndian.PutUint32(cn[0:], connectorIdx)
	binary.NativeEndian.PutUint32(cn[4:], connectorVal)
	binary.NativeEndian.PutUint16(cn[16:], 4) // length of the payload
	binary.NativeEndian.PutUint32(cn[sizeofCnMsg:], connectorListen)
	return m
}

// messages passes each proc_event in a datagram to each, with its first eight bytes
// of data.
func messages(b []byte, each func(what uint32, data []byte)) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return
		}
		if body := b[unix.SizeofNlMsghdr:size]; len(body) >= sizeofCnMsg+connectorData+8 {
			cn, e := body[:sizeofCnMsg], body[sizeofCnMsg:]
			if binary.NativeEndian.Uint32(cn) == connectorIdx && binary.NativeEndian.Uint32(cn[4:]) == connectorVal {
				each(binary.NativeEndian.Uint32(e[connectorWhat:]), e[connectorData:connectorData+8])
			}
		}
		b = b[min(len(b), (size+3)&^3):] // NLMSG_ALIGN
	}
}

func (c *connector) name() string { return "proc connector" }
func (c *connector) fds() []int   { return []int{c.fd} }
func (c *connector) stale() bool  { return false }
func (c *connector) close()       { unix.Close(c.fd) }

func (c *connector) read(each func(event)) (lost bool, err error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf[:], 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lost, nil
		case errors.Is(err, unix.ENOBUFS):
			lost = true
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return lost, fmt.Errorf("proc connector: recvfrom: %w", err)
		}
		messages(c.buf[:n], func(what uint32, data []byte) {
			if what == connectorExec {
				each(event{pid: int(binary.NativeEndian.Uint32(data[4:]))})
			}
		})
	}
}
