// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPollerReportsEventsAndTheEndOfTheTime(t *testing.T) {
	p := testPoller(t)
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := p.add(fd, unix.EPOLLIN|unix.EPOLLONESHOT); err != nil {
		t.Fatal(err)
	}
	var ready [4]unix.EpollEvent
	begin := time.Now()
	if n, err := p.wait(ready[:], begin.Add(20*time.Millisecond)); n != 0 || err != nil {
		t.Errorf("%d events after %s, %v", n, time.Since(begin), err)
	}
	if n, err := p.wait(ready[:], begin); n != 0 || err != nil { // a time that is over
		t.Errorf("%d events, %v", n, err)
	}
	write := func() {
		if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Error(err)
		}
	}
	go func() {
		time.Sleep(10 * time.Millisecond)
		write()
	}()
	wantOne := func() {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; {
			n, err := p.wait(ready[:], end)
			if n == 0 && err == nil && time.Now().Before(end) {
				continue // a signal
			}
			if n != 1 || err != nil || int(ready[0].Fd) != fd {
				t.Fatalf("%d events, %v", n, err)
			}
			return
		}
	}
	wantOne()
	write()
	if n, err := p.wait(ready[:], time.Now().Add(10*time.Millisecond)); n != 0 || err != nil {
		t.Errorf("%d events of one that was to be reported once, %v", n, err)
	}
	if err := p.again(fd, unix.EPOLLIN|unix.EPOLLONESHOT); err != nil {
		t.Fatal(err)
	}
	wantOne()
}
