package daemon

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"vprocfs/internal/inject/watch"
)

func TestHolderAsksItsWatcherForItsNumbers(t *testing.T) {
	ours, theirs, err := newStatusLine()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	k := &keeper{line: new(statusLine)}
	if _, err := k.status(); !errors.Is(err, errNoWatcher) {
		t.Errorf("without a watcher: %v", err)
	}
	k.line.connect(ours)

	// A watcher that is slow, and answers the first question when another is waited for.
	if _, err := k.line.status(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a watcher that does not answer: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		answerStatus(theirs, new(watch.Stats))
		close(ended)
	}()
	for range 3 {
		if s, err := k.line.status(time.Minute); err != nil || s.Attached != 0 {
			t.Errorf("%+v, %v", s, err)
		}
	}
	ours.Close()
	<-ended // the watcher notices the end of the holder
	theirs.Close()
	if _, err := k.status(); err == nil {
		t.Error("a watcher that has ended answers")
	}
	if got := truncated(strings.Repeat("x", 5000)); len(got) > 1100 {
		t.Errorf("an error has %d bytes", len(got))
	}
}
