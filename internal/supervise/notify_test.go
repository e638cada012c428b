// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestNobodyWaitsForSystemd: while it does not read, notices wait in their order, and
// those that do not fit are dropped and counted.
func TestNobodyWaitsForSystemd(t *testing.T) {
	before := openFiles(t)
	var log bytes.Buffer
	n := newNotifier(slog.New(slog.NewTextHandler(&log, nil)))
	reads, sent := make(chan struct{}), []string{}
	n.start(func(what notice) error {
		<-reads
		sent = append(sent, what.state+what.name)
		return nil
	})
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.store("file", int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	f.Close()
	const told = 2 * maxNotices
	for i := range told {
		n.tell(fmt.Sprint(i))
	}
	n.flush(10 * time.Millisecond)
	close(reads)
	n.flush(time.Minute)
	if len(sent) < maxNotices || sent[0] != "file" {
		t.Fatalf("sent %q", sent)
	}
	last := -1
	for _, s := range sent[1:] {
		i, err := strconv.Atoi(s)
		if err != nil || i <= last {
			t.Errorf("%q after %d", s, last)
		}
		last = i
	}
	if want := fmt.Sprintf(`msg="systemd reads again" "not told"=%d`, told-len(sent)+1); !strings.Contains(log.String(), want) {
		t.Errorf("log %q, want %q", &log, want)
	}
	wantOpenFiles(t, before)
}
