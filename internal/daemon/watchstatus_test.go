// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"vprocfs/internal/inject/watch"
)

// TestHolderKnowsTheNumbersOfItsWatcher, and that there is none any more.
func TestHolderKnowsTheNumbersOfItsWatcher(t *testing.T) {
	ours, theirs, err := newWatchLine()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	var last lastStatus
	if s := last.get(); s != nil {
		t.Errorf("without a watcher: %+v", s)
	}
	ended := make(chan struct{})
	go func() {
		last.receive(ours)
		close(ended)
	}()
	stats := new(watch.Stats)
	go tellStatus(theirs, stats)
	stats.Refuse(watch.Files, strings.Repeat("x", 5000))
	stats.Refuse(watch.Files, "the second")
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if s := last.get(); s != nil && s.Refused[watch.Files] == 2 && s.LastError == "the second" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the holder knows %+v", last.get())
		}
	}
	theirs.Close()
	<-ended
	if s := last.get(); s != nil {
		t.Errorf("after the end of the watcher: %+v", s)
	}
	if got := truncated(strings.Repeat("x", 5000)); len(got) > 1100 {
		t.Errorf("an error has %d bytes", len(got))
	}
}

// TestTheLevelOfTheLogReachesTheWatcher that runs, and one that begins later.
func TestTheLevelOfTheLogReachesTheWatcher(t *testing.T) {
	k := new(keeper)
	k.setLevel("debug") // none runs
	watcher := func() (log *LogOptions, line *os.File) {
		t.Helper()
		ours, theirs, err := newWatchLine()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ours.Close()
			theirs.Close()
		})
		log = &LogOptions{level: new(slog.LevelVar)}
		go followLevel(theirs, log)
		return log, ours
	}
	reaches := func(log *LogOptions, want slog.Level) {
		t.Helper()
		for end := time.Now().Add(time.Minute); log.level.Level() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the level is %s, want %s", log.level.Level(), want)
			}
		}
	}
	first, line := watcher()
	k.setLine(line)
	reaches(first, slog.LevelDebug)
	k.setLevel("error")
	reaches(first, slog.LevelError)
	k.setLine(nil)
	second, line := watcher()
	k.setLine(line)
	reaches(second, slog.LevelError)
	// One that hangs delays the holder for a moment only.
	hung, theirs, err := newWatchLine()
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	defer theirs.Close()
	k.setLine(hung)
	for range 400 {
		k.setLevel("info")
	}
	(*keeper)(nil).setLevel("info")
}
