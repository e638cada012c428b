// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// scanner returns a watcher that only scans a fake /proc.
func scanner(t *testing.T, fake *fakeProc, a Attacher) *watcher {
	t.Helper()
	entries, err := os.ReadDir(fake.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Symlink("/", filepath.Join(fake.root, e.Name(), "root")); err != nil {
			t.Fatal(err)
		}
	}
	p, err := newProc(fake.root)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{Config: config(Rules{}, a, io.Discard), proc: p, retries: newRetries(func() {})}
	w.Log = slog.New(slog.DiscardHandler)
	w.Dir = "/view"
	w.queue = newQueue(func(j job, done func(bool)) { w.attach(t.Context(), j, done) })
	t.Cleanup(w.queue.wait)
	return w
}

const hostView = "30 20 0:60 / /view ro - fuse.vprocfs vprocfs ro\n"

// TestTheFirstScanFinishesWhatAnotherWatcherBegan: that may have been killed after one file.
func TestTheFirstScanFinishesWhatAnotherWatcherBegan(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("self", 1, "host", "1", "/", hostRoot+hostView)
	fake.add("10", 1, "host", "1", "/system.slice/runc", hostRoot)
	fake.add("20", 10, "c", "2", "/c", ownRoot+ownProc+"92 91 0:60 /proc/uptime /proc/uptime ro - fuse.vprocfs vprocfs ro\n")
	var a fakeAttacher
	w := scanner(t, fake, &a)
	if err := w.maintain(time.Now()); err != nil { // there is no source: it scans
		t.Fatal(err)
	}
	w.scans.Wait()
	w.queue.wait()
	if !a.has(20) {
		t.Error("the first scan leaves a container alone that has some of the files")
	}
	clear(a.attached)
	<-w.scanning
	w.scanning = nil
	if err := w.maintain(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.scans.Wait()
	w.queue.wait()
	if a.has(20) {
		t.Error("the second scan attaches a container that has the files")
	}
}

// TestScanFindsAnInitWhosePidIsHigh: pids are used again.
func TestScanFindsAnInitWhosePidIsHigh(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("10", 1, "host", "1", "/system.slice/runc", hostRoot)
	fake.add("90", 10, "c", "2", "/c", ownRoot+ownProc)
	for _, pid := range strings.Fields("20 21 22 23 24 25") {
		fake.add(pid, 90, "c", "2", "/c", ownRoot+ownProc)
	}
	var a fakeAttacher
	w := scanner(t, fake, &a)
	if unready := w.scan((*sighting).has); len(unready) > 0 {
		t.Errorf("not ready: %v", unready)
	}
	w.queue.wait()
	if !a.has(90) {
		t.Errorf("attached: %v", a.attached)
	}
}

// TestScanKeepsAProcessWhoseParentHasJustEnded: the next look finds its new parent.
func TestScanKeepsAProcessWhoseParentHasJustEnded(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("20", 99, "c", "2", "/c", ownRoot+ownProc)
	w := scanner(t, fake, new(fakeAttacher))
	if unready := w.scan((*sighting).has); !slices.Equal(unready, []int{20}) {
		t.Errorf("not ready: %v, want 20", unready)
	}
}
