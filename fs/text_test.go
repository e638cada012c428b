// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// fresh is a Source of texts of 8,500 bytes and more. No two of them have a line in
// common, and the first ones are the shortest.
func fresh() fs.Source {
	var made atomic.Int64
	return sourceFunc(func(dst []byte, _ fs.NodeID, _ *fs.Turn) ([]byte, error) {
		return append(dst, strings.Repeat(token(), 500+min(int(made.Add(1)), 50))...), nil
	})
}

// isOneText reports whether s is a whole text of fresh.
func isOneText(s string) bool {
	return len(s) > 17*500 && len(s)%17 == 0 && s == strings.Repeat(s[:17], len(s)/17)
}

func byUser(c fs.Caller) uint64 { return uint64(c.UID) + 1 }

// TestATextOfOneOwnerOutlivesThoseOfAnother: a container with thousands of open files
// takes nothing from another that reads slowly.
func TestATextOfOneOwnerOutlivesThoseOfAnother(t *testing.T) {
	m := serve(t, owned{byUser, fresh()}, fs.ServerOptions{})
	var begun, ended int
	var first string
	var end int
	asUser(t, 1234, func() {
		begun, ended = open(t, m.path("stat")), open(t, m.path("stat"))
		first = pread(t, begun, 100, 0)
		got := pread(t, ended, 1<<16, 0)
		if end = len(got); !isOneText(got) {
			t.Errorf("%d bytes", len(got))
		}
	})
	asUser(t, 4321, func() { hoard(t, m.path("cpuinfo")) })
	asUser(t, 1234, func() {
		if got := first + pread(t, begun, 1<<16, 100); !isOneText(got) {
			t.Errorf("a text that was begun is not finished: %.40q and %.40q", got, got[100:])
		}
		if got := pread(t, ended, 1<<16, int64(end)); got != "" {
			t.Errorf("after its end: %.40q", got)
		}
	})
}

// begunText is a file that somebody is in the middle of.
type begunText struct {
	fd    int
	first string
}

// allowFiles lets this process have n files open. Guests allow 4,096.
func allowFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n {
		limit = unix.Rlimit{Cur: n, Max: max(n, limit.Max)}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
}

// hoard begins 5,000 texts of path, which take 41 MiB, twice each.
func hoard(t *testing.T, path string) []begunText {
	t.Helper()
	allowFiles(t, 8192)
	texts := make([]begunText, 5000)
	for i := range texts {
		texts[i].fd = open(t, path)
	}
	for range 2 {
		for i := range texts {
			texts[i].first = pread(t, texts[i].fd, 100, 0)
		}
	}
	return texts
}

// TestATextThatItsOwnerHasNoRoomForIsNotMixed: the owner's newest texts take the room of its
// oldest. What is left of those is an error, never another text.
func TestATextThatItsOwnerHasNoRoomForIsNotMixed(t *testing.T) {
	m := serve(t, owned{byUser, fresh()}, fs.ServerOptions{})
	asUser(t, 4321, func() {
		whole := open(t, m.path("stat"))
		end := int64(len(pread(t, whole, 1<<16, 0)))
		buf := make([]byte, 1<<16)
		gone := 0
		texts := hoard(t, m.path("cpuinfo"))
		for _, x := range texts {
			switch n, err := unix.Pread(x.fd, buf, 100); {
			case err == unix.ESTALE:
				gone++
			case err != nil || !isOneText(x.first+string(buf[:n])):
				t.Fatalf("a text that was begun goes on with %.40q, %v", buf[:n], err)
			}
			if n, err := unix.Pread(x.fd, buf, 9350); n != 0 || err != nil {
				t.Fatalf("after its end: %d bytes, %v", n, err)
			}
		}
		if gone < len(texts)/2 || gone == len(texts) {
			t.Errorf("%d of %d texts are gone", gone, len(texts))
		}
		if got := pread(t, whole, 1<<16, end); got != "" {
			t.Errorf("after its end: %.40q", got)
		}
		if got := pread(t, texts[0].fd, 1<<16, 0); !isOneText(got) {
			t.Errorf("read from the start again: %d bytes", len(got))
		}
	})
}

// TestSizeAskedForAtTheEndShowsNothingBehindIt: fstat(2) makes a new text, and a reader of
// the old one that looks for its end once more still finds it.
func TestSizeAskedForAtTheEndShowsNothingBehindIt(t *testing.T) {
	m := serve(t, fresh(), fs.ServerOptions{})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd := open(t, m.path("stat"))
	end := int64(len(pread(t, fd, 1<<16, 0)))
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if got := pread(t, fd, 1<<16, end); got != "" {
		t.Errorf("after the end: %.40q", got)
	}
	if got := pread(t, fd, 1<<16, 0); !isOneText(got) || int64(len(got)) != st.Size {
		t.Errorf("%d bytes, fstat said %d", len(got), st.Size)
	}
}
