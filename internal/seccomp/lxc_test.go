// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// lxcMessage is what LXC 6.0 sends on a little-endian machine.
func lxcMessage(cookie string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, 0)
	for _, pid := range []uint32{100, 200} {
		b = binary.LittleEndian.AppendUint32(b, pid)
	}
	for _, size := range []uint16{80, 24, 64, 0} {
		b = binary.LittleEndian.AppendUint16(b, size)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(len(cookie)))
	b = binary.LittleEndian.AppendUint64(b, 0x1122334455667788) // id
	for _, n := range []uint32{300, 0, 99, unix.AUDIT_ARCH_X86_64} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	for _, n := range []uint64{0x400000, 1, 2, 3, 4, 5, 6} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return append(append(b, make([]byte, 24)...), cookie...)
}

func TestMessageOfLXC(t *testing.T) {
	monitor, ours := unixPair(t, "unixpacket")
	before := openFiles(t)
	fds := eventfds(t, lxcRights)
	if _, _, err := monitor.WriteMsgUnix(lxcMessage("vprocfs"), unix.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
	r, err := ReceiveLXC(ours)
	if err != nil {
		t.Fatal(err)
	}
	want := Notification{
		ID: 0x1122334455667788, TID: 300, Call: Call{NR: 99, Arch: unix.AUDIT_ARCH_X86_64}, IP: 0x400000, Args: [6]uint64{1, 2, 3, 4, 5, 6},
	}
	if r.Notification != want || r.Monitor != 100 || r.Init != 200 || r.Cookie != "vprocfs" || r.Memory != r.fds[1] {
		t.Errorf("%+v", r)
	}
	resp := r.Return(-7)
	if err := r.Reply(ours, &resp); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := monitor.Read(b)
	wantReply := lxcMessage("vprocfs")[:32+80]
	wantReply = binary.LittleEndian.AppendUint64(wantReply, want.ID)
	wantReply = binary.LittleEndian.AppendUint64(wantReply, ^uint64(6))
	wantReply = append(wantReply, make([]byte, 8)...)
	if err != nil || !bytes.Equal(b[:n], wantReply) {
		t.Errorf("reply %x, %v\nwant  %x", b[:n], err, wantReply)
	}
	r.Close()
	for _, fd := range fds {
		unix.Close(fd)
	}
	if after := openFiles(t); !slices.Equal(before, after) {
		t.Errorf("descriptors before %q, after %q", before, after)
	}
	monitor.Close()
	if _, err := ReceiveLXC(ours); err != io.EOF {
		t.Errorf("%v instead of EOF", err)
	}
}

func TestMessageOfLXCThatIsNone(t *testing.T) {
	good := lxcMessage("c")
	change := func(at int) []byte {
		b := bytes.Clone(good)
		b[at]++
		return b
	}
	for name, tt := range map[string]struct {
		text []byte
		fds  int
	}{
		"short":            {good[:lxcReplySize-1], 3},
		"one descriptor":   {good, 1},
		"four descriptors": {good, 4},
		"too many":         {good, maxRights + 5},
		"reserved":         {change(0), 3},
		"other struct":     {change(16), 3},
		"other response":   {change(18), 3},
		"other data":       {change(20), 3},
		"longer cookie":    {change(24), 3},
		"huge cookie":      {change(31), 3},
		"too long":         {lxcMessage(strings.Repeat("x", maxCookie+1)), 3},
		"far too long":     {lxcMessage(strings.Repeat("x", 2*maxCookie)), 3},
	} {
		t.Run(name, func(t *testing.T) {
			monitor, ours := unixPair(t, "unixpacket")
			fds := eventfds(t, tt.fds)
			before := openFiles(t)
			if _, _, err := monitor.WriteMsgUnix(tt.text, unix.UnixRights(fds...), nil); err != nil {
				t.Fatal(err)
			}
			if r, err := ReceiveLXC(ours); err == nil || err == io.EOF {
				t.Errorf("%+v, %v", r, err)
			}
			if after := openFiles(t); !slices.Equal(before, after) {
				t.Errorf("descriptors before %q, after %q", before, after)
			}
		})
	}
}

func FuzzMessageOfLXC(f *testing.F) {
	f.Add(lxcMessage("cookie"))
	f.Add(lxcMessage(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r LXCRequest
		if err := r.parse(b); err != nil {
			return
		}
		resp := Response{ID: r.ID}
		// What LXC sent, but for the response and the cookie.
		if reply := r.appendReply(nil, &resp); !bytes.Equal(reply[:22], b[:22]) || !bytes.Equal(reply[24:lxcHeaderSize+notificationSize], b[24:lxcHeaderSize+notificationSize]) {
			t.Errorf("reply %x to %x", reply, b)
		}
	})
}
