// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"io"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
)

// TestAnOfferReachesTheWorker, again and again until it does, and what the worker has no use
// for any more is given up by both.
func TestAnOfferReachesTheWorker(t *testing.T) {
	before := openFiles(t)
	sys := realSystem()
	ours, theirs, err := sys.pair()
	if err != nil {
		t.Fatal(err)
	}
	c, err := fdconn.New(theirs)
	if err != nil {
		t.Fatal(err)
	}
	var dropped []string
	h := NewHolder(Config{
		Log: slog.New(slog.DiscardHandler), Output: io.Discard, MaxOutage: time.Minute,
		Dropped: func(name string) { dropped = append(dropped, name) },
	}, map[string]*os.File{}, Signals{})
	h.procs[1] = &process{control: ours}
	w := &Worker{Files: map[string]int{}, sys: sys}
	w.control.Store(c)

	// The worker reads nothing for a while: the socket is full.
	for send(ours, msgPing, "") == nil {
	}
	fd, err := unix.MemfdCreate("offer", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	h.Offer("offer", os.NewFile(uintptr(fd), "offer"))
	h.takeOffers()
	<-h.offers.wake // of the above
	offered := make(chan string, 10)
	go w.follow(Orders{Ping: func() error { return io.EOF }, Offer: func(name string) { offered <- name }})
	var name string
	for name == "" {
		select {
		case name = <-offered:
		case <-h.offers.wake: // it is offered again
			h.takeOffers()
		case <-time.After(10 * time.Second):
			t.Fatal("the worker has got nothing")
		}
	}
	own, err := w.File(name)
	if name != "offer" || err != nil {
		t.Fatal(name, err)
	}
	unix.Close(own)

	w.Drop(name)
	m, err := receive(ours)
	if err != nil {
		t.Fatal(err)
	}
	h.takeFile(m)
	h.takeFile(m) // a second time it is unknown
	if _, err := w.File(name); err == nil || h.files[name] != nil || !slices.Equal(dropped, []string{"offer"}) {
		t.Errorf("%v; holder: %v; dropped %q", err, h.files, dropped)
	}
	ours.Close()
	c.Close()
	h.files[stderrName].Close()
	wantOpenFiles(t, before)
}
