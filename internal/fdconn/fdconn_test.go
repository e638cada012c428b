// SPDX-License-Identifier: Apache-2.0

package fdconn

import (
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	a, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = New(theirs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// TestTextsAndDescriptorsArriveInTheirOrder, each on its own, and the descriptors are
// close-on-exec.
func TestTextsAndDescriptorsArriveInTheirOrder(t *testing.T) {
	a, b := pair(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	long := strings.Repeat("x", MaxText)
	for _, m := range []struct {
		text string
		fd   int
	}{{"a text", -1}, {"a file", int(f.Fd())}, {long, -1}} {
		if err := a.Send(m.text, m.fd); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"a text", "a file", long} {
		text, fd, err := b.Receive()
		if err != nil || text != want || (fd >= 0) != (want == "a file") {
			t.Fatalf("got %.20q with descriptor %d, %v; want %.20q", text, fd, err, want)
		}
		if fd < 0 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d: flags %d, %v", fd, flags, err)
		}
		unix.Close(fd)
	}
}

// TestTheEndIsAnEOF, also if something that was sent is not read.
func TestTheEndIsAnEOF(t *testing.T) {
	for _, sent := range []string{"", "unread"} {
		a, b := pair(t)
		if sent != "" {
			if err := b.Send(sent, -1); err != nil {
				t.Fatal(err)
			}
		}
		a.Close()
		if _, _, err := b.Receive(); err != io.EOF {
			t.Errorf("after %q: %v", sent, err)
		}
		if err := b.Send("more", -1); err == nil {
			t.Error("a closed end takes texts")
		}
	}
}

// TestSendNeverWaits for an end that does not read.
func TestSendNeverWaits(t *testing.T) {
	a, _ := pair(t)
	sent := 0
	for ; sent < 1e6; sent++ {
		if err := a.Send("ping", -1); err != nil {
			break
		}
	}
	if sent == 1e6 {
		t.Error("there is no end to what is sent and not read")
	}
}
