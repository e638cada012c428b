// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"runtime"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// FuzzRequest gives any bytes to the dispatcher: no panic, at most one reply, and
// the reply well-formed and to the request.
func FuzzRequest(f *testing.F) {
	s, _ := deadServer(-1, content("content\n"))
	for _, node := range []NodeID{NodeRoot, NodeProc, NodeUptime, NodeStat, 999} {
		for op := range uint32(60) {
			f.Add(wire(header(op, node), ""))
			f.Add(wire(header(op, node), "uptime\x00"))
			f.Add(wire(fuse.ReadIn{InHeader: header(op, node), Fh: 1, Size: 4096, ReadFlags: fuse.READ_LOCKOWNER}, ""))
			f.Add(wire(fuse.ReadIn{InHeader: header(op, node), Fh: 1, Offset: 1<<64 - 1, Size: 1<<32 - 1}, ""))
			f.Add(wire(fuse.GetAttrIn{InHeader: header(op, node), Flags_: fuse.FUSE_GETATTR_FH, Fh_: s.handles.header.epoch}, ""))
		}
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		var ends [2]int
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(ends[0])
		defer unix.Close(ends[1])
		s, w := deadServer(ends[0], content("content\n"))
		defer runtime.KeepAlive(s) // its journal is the memory of in
		in := s.journal.Slot()
		n := copy(in, request)
		if execute(s, w, in[:n]) {
			t.Error("the reader's role is handed on although nothing is slow")
		}

		reply := make([]byte, 1<<16)
		got, err := unix.Read(ends[1], reply)
		if err == unix.EAGAIN {
			h := decode[fuse.InHeader](in[:n])
			if h != nil && h.Opcode != opForget && h.Opcode != opBatchForget && h.Opcode != opInterrupt && h.Opcode != opNotifyReply {
				t.Errorf("no reply to opcode %d", h.Opcode)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		out := (*fuse.OutHeader)(unsafe.Pointer(&reply[0]))
		inHeader := (*fuse.InHeader)(unsafe.Pointer(&in[0]))
		switch {
		case got < outHeaderSize || int(out.Length) != got:
			t.Errorf("%d bytes with length %d", got, out.Length)
		case out.Unique != inHeader.Unique:
			t.Errorf("reply to %d, not to %d", out.Unique, inHeader.Unique)
		case out.Status > 0 || out.Status <= -512:
			t.Errorf("status %d", out.Status)
		case out.Status < 0 && got != outHeaderSize:
			t.Errorf("an error with %d bytes", got)
		}
		if _, err := unix.Read(ends[1], reply); err != unix.EAGAIN {
			t.Error("a second reply")
		}
	})
}
