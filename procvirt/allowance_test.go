// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/internal/fixture"
)

// TestAnAllowanceIsItsRate: as much as was saved up at once, and then one each so often.
func TestAnAllowanceIsItsRate(t *testing.T) {
	const rate = 100
	const each = time.Second / rate
	var a allowance
	now := int64(time.Hour)
	for i := range rate {
		if wait := a.take(now, rate); wait != 0 {
			t.Fatalf("read %d waits %s", i, wait)
		}
	}
	for i := range 50 {
		if wait := a.take(now, rate); wait != time.Duration(i+1)*each {
			t.Fatalf("read %d beyond the rate waits %s", i, wait)
		}
	}
	// Those that do not wait to the end leave their places.
	for range 50 {
		a.giveBack(rate)
	}
	if wait := a.take(now, rate); wait != each {
		t.Errorf("a read after those that were not made waits %s", wait)
	}
	// A second saves up a second.
	now += int64(5*time.Second) + int64(each)
	n := 0
	for ; a.take(now, rate) == 0; n++ {
	}
	if n != rate {
		t.Errorf("%d reads were saved up, want %d", n, rate)
	}
	// Nobody waits for ever.
	for range 100 * rate {
		if wait := a.take(now, rate); wait > maxDelay {
			t.Fatalf("a read waits %s", wait)
		}
	}
}

// TestAnOwnerThatReadsTooMuchWaits, and no other does. What is read meanwhile is made after
// the wait.
func TestAnOwnerThatReadsTooMuchWaits(t *testing.T) {
	h := fixture.All(t, "testdata/host")[0]
	const rate = 10
	r := fixtureRegistry(t, h, func(c *Config) { c.MaxRate = rate })
	f := fileNamed(t, r, "uptime")
	loud := subject(t, h, h.Roles["child"])
	quiet := subject(t, h, h.Roles["child"])
	quiet.NS, quiet.Owner = loud.NS+1, loud.NS+1
	host := subject(t, h, h.Roles["host"])
	read := func(s *Subject, turn *fakeTurn) error {
		_, err := appendFile(r, nil, f, pidOf(t, r, s), turn)
		return err
	}
	var first fakeTurn
	for range rate {
		if err := read(loud, &first); err != nil {
			t.Fatal(err)
		}
	}
	if len(first.delays) != 0 {
		t.Fatalf("delayed within the rate: %v", first.delays)
	}
	var beyond fakeTurn
	if err := read(loud, &beyond); err != nil || len(beyond.delays) != 1 || beyond.delays[0] <= 0 {
		t.Errorf("beyond the rate: delays %v, %v", beyond.delays, err)
	}
	refused := fakeTurn{delayErr: unix.EINTR}
	if err := read(loud, &refused); !errors.Is(err, unix.EINTR) {
		t.Errorf("a wait that a signal has ended: %v, want EINTR", err)
	}
	for range 3 * rate {
		var turn fakeTurn
		if err := read(host, &turn); err != nil || len(turn.delays) != 0 {
			t.Fatalf("a program of the host: delays %v, %v", turn.delays, err)
		}
	}
	var other fakeTurn
	if err := read(quiet, &other); err != nil || len(other.delays) != 0 {
		t.Errorf("another container: delays %v, %v", other.delays, err)
	}
	if s := r.Snapshot(); s.Delayed != 2 || s.Delaying != 0 || s.MaxRate != rate {
		t.Errorf("%d delayed, %d wait, rate %d", s.Delayed, s.Delaying, s.MaxRate)
	}
	for _, c := range r.List() {
		if want := map[uint64]uint64{loud.NS: 2, quiet.NS: 0}[c.Namespace]; !c.Host && c.Delayed != want {
			t.Errorf("namespace %d: %d delayed, want %d", c.Namespace, c.Delayed, want)
		}
	}
}
