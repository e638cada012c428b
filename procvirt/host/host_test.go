// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
)

func TestStartTimeIsOnTheClock(t *testing.T) {
	started, err := StartTime("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if age := NewClock().Now() - started; age < 0 || age > int64(time.Hour) {
		t.Errorf("this test is %v old", time.Duration(age))
	}
	if _, err := StartTime("/proc", 1<<30); err == nil || !strings.Contains(err.Error(), "/proc/1073741824/stat") {
		t.Errorf("no such process: %v", err)
	}
}

func TestClockIsCloseToBoottime(t *testing.T) {
	c := NewClock()
	for range 1000 {
		before := boottime()
		now := c.Now()
		after := boottime()
		if now < before-int64(slack) || now > after+int64(slack) {
			t.Fatalf("%d is not between %d and %d", now, before, after)
		}
	}
}

func TestClockFollowsSuspensionsAndNoSteps(t *testing.T) {
	const s = int64(time.Second)
	var mono, wall, boot int64 = 0, 1e18, 5 * s
	asked := 0
	c := &Clock{
		read: func() (int64, int64) { return mono, wall },
		boot: func() int64 { asked++; return boot + int64(asked) }, // reading takes time
	}
	pass := func(what string, dMono, dWall, dBoot int64, want int64, wantAsked int) {
		t.Helper()
		mono, wall, boot = mono+dMono, wall+dWall, boot+dBoot
		if got := c.Now(); got != want || asked != wantAsked {
			t.Errorf("%s: %d after %d questions, want %d after %d", what, got, asked, want, wantAsked)
		}
	}
	pass("the first time", 0, 0, 0, 5*s+1, 1)
	pass("a second later", s, s, s, 6*s+1, 1)
	pass("the calendar is set", s, 100*s, s, 7*s+1, 2)
	pass("and set back", s, -300*s, s, 8*s+1, 3)
	pass("suspended for an hour", s, 3601*s, 3601*s, 3609*s+4, 4)
	pass("and on", s, s, s, 3610*s+4, 4)
}

func TestReadAtOfAMissingProcess(t *testing.T) {
	if _, err := held.ReadAt([]byte("/proc/1073741824/cgroup\x00"), nil); err != unix.ENOENT {
		t.Errorf("%v", err)
	}
}

func TestEveryFileIsReadWhole(t *testing.T) {
	var o held.Opener
	for _, s := range []Source{{Path: "proc/stat"}, {Path: "proc/cpuinfo", Records: true}, {Path: "sys/devices/system/cpu/online"}} {
		f, err := Open(&o, "/", s)
		if err != nil {
			t.Fatal(err)
		}
		text, err := f.Read(make([]byte, 0, 16)) // too small at first
		if err != nil || len(text) == 0 || text[len(text)-1] != '\n' {
			t.Errorf("%s: %v, %d bytes", s.Path, err, len(text))
		}
		f.Close()
	}
	if o.Count() != 0 {
		t.Errorf("%d files are open", o.Count())
	}
}

func TestOnlyOptionalFilesMayBeMissing(t *testing.T) {
	var o held.Opener
	if f, err := Open(&o, t.TempDir(), Source{Path: "x", Optional: true}); f != nil || err != nil {
		t.Errorf("optional: %v, %v", f, err)
	} else if _, err := f.Read(nil); err != unix.ENOENT {
		t.Errorf("read of a file that is not there: %v", err)
	}
	if _, err := Open(&o, t.TempDir(), Source{Path: "x"}); err == nil {
		t.Error("a file that every kernel has is missing, and that is no error")
	}
}
