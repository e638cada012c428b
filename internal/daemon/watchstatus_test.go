package daemon

import (
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
