// SPDX-License-Identifier: Apache-2.0

package logqueue

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipe returns a pipe whose writing end is full, and how much is in it.
func fullPipe(t *testing.T) (r, w *os.File, content int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	t.Cleanup(func() { r.Close(); w.Close() })
	if err := unix.SetNonblock(fds[1], true); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{4096, 1} {
		for n, err := 0, error(nil); err == nil; content += max(n, 0) {
			n, err = unix.Write(fds[1], make([]byte, size))
		}
	}
	if err := unix.SetNonblock(fds[1], false); err != nil {
		t.Fatal(err)
	}
	return r, w, content
}

// readLines reads what comes after the content of a full pipe, up to a line.
func readLines(t *testing.T, r *os.File, content int, last string) []string {
	t.Helper()
	var b bytes.Buffer
	buf := make([]byte, 1<<16)
	for !strings.Contains(b.String()[min(content, b.Len()):], last) {
		n, err := unix.Read(int(r.Fd()), buf)
		if err != nil || n == 0 {
			t.Fatalf("read: %d, %v", n, err)
		}
		b.Write(buf[:n])
	}
	return strings.Split(strings.TrimSuffix(b.String()[content:], "\n"), "\n")
}

// TestNobodyWaitsForTheReader: what does not fit is dropped, one line says how much,
// and all that was written is whole and in order.
func TestNobodyWaitsForTheReader(t *testing.T) {
	for _, nonblocking := range []bool{false, true} {
		r, w, content := fullPipe(t)
		if err := unix.SetNonblock(int(w.Fd()), nonblocking); err != nil {
			t.Fatal(err)
		}
		q := New(int(w.Fd()))
		const lines, writers = 5000, 4
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for j := range lines {
					fmt.Fprintf(q, "%d %d %s\n", i, j, strings.Repeat("x", 80))
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		q.Flush(10 * time.Millisecond) // nobody reads
		got := readLines(t, r, content, "dropped")
		notice := got[len(got)-1]
		var dropped int
		if _, err := fmt.Sscanf(notice, "%d lines were dropped", &dropped); err != nil || len(got)-1+dropped != writers*lines {
			t.Errorf("%d lines, and %q", len(got)-1, notice)
		}
		next := make([]int, writers)
		for _, line := range got[:len(got)-1] {
			var i, j int
			var x string
			if _, err := fmt.Sscanf(line, "%d %d %s", &i, &j, &x); err != nil || len(x) != 80 || j != next[i] {
				t.Fatalf("line %q, want the one after %v", line, next)
			}
			next[i]++
		}
		// And it goes on.
		fmt.Fprintln(q, "after")
		if got := readLines(t, r, 0, "after\n"); len(got) != 1 || got[0] != "after" {
			t.Errorf("then %q", got)
		}
		q.Flush(time.Minute)
	}
}

// TestFlushWaitsForTheReader, so that the last lines of a process are not lost.
func TestFlushWaitsForTheReader(t *testing.T) {
	r, w, content := fullPipe(t)
	q := New(int(w.Fd()))
	fmt.Fprintln(q, "last")
	flushed := make(chan struct{})
	go func() {
		q.Flush(time.Minute)
		close(flushed)
	}()
	readLines(t, r, content, "last\n")
	<-flushed
	q.Flush(time.Hour) // nothing is left
}

// TestFlushGivesUpOnAReaderThatHasNotReadForLong: at the end of a process nobody waits
// again.
func TestFlushGivesUpOnAReaderThatHasNotReadForLong(t *testing.T) {
	writing, blocked := make(chan struct{}), make(chan struct{})
	defer close(blocked)
	q := New(-1)
	q.write = func(p []byte) (int, error) {
		close(writing)
		<-blocked
		return len(p), nil
	}
	fmt.Fprintln(q, "a line")
	<-writing
	q.mu.Lock()
	q.began = q.began.Add(-time.Hour)
	q.mu.Unlock()
	flushed := make(chan struct{})
	go func() {
		q.Flush(time.Hour)
		close(flushed)
	}()
	select {
	case <-flushed:
	case <-time.After(time.Minute):
		t.Error("it waits again")
	}
}

// TestLinesThatCannotBeWrittenAreCounted, on a full disk for example.
func TestLinesThatCannotBeWrittenAreCounted(t *testing.T) {
	var got []string
	full := true
	q := New(-1)
	q.write = func(p []byte) (int, error) {
		if full {
			return 0, unix.ENOSPC
		}
		got = append(got, string(p))
		return len(p), nil
	}
	for _, line := range []string{"1", "2", "3"} {
		fmt.Fprintln(q, line)
		q.Flush(time.Minute)
	}
	full = false
	fmt.Fprintln(q, "4")
	q.Flush(time.Minute)
	if want := "3 lines were dropped: the log was not read\n4\n"; strings.Join(got, "") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestUnshareLeavesOthersAsTheyAre: O_NONBLOCK belongs to a description that others may
// share.
func TestUnshareLeavesOthersAsTheyAre(t *testing.T) {
	r, w, content := fullPipe(t)
	fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := Unshare(fd); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fd   int
		want bool
	}{{fd, true}, {int(w.Fd()), false}} {
		if flags, err := unix.FcntlInt(uintptr(c.fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 != c.want {
			t.Errorf("descriptor %d: flags %x, %v", c.fd, flags, err)
		}
	}
	if n, err := unix.Write(fd, []byte("x")); err != unix.EAGAIN {
		t.Errorf("write: %d, %v", n, err)
	}
	// It is the same pipe.
	go unix.Write(int(w.Fd()), []byte("end"))
	readLines(t, r, content, "end")
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Unshare(int(f.Fd())); err != nil {
		t.Errorf("a file: %v", err)
	}
}
