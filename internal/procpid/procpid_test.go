// SPDX-License-Identifier: Apache-2.0

package procpid

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const afterName = ") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20\n"

const aStatus = "Name:\ta:b\\nPPid:\\t9\nTgid:\t12\nPPid:\t7\nNStgid:\t12\t3\t1\nNSpid:\t13\t4\t2\nCapEff:\t000001ffffffffff\n"

const aCgroup = "12:cpu,cpuacct:/a b:c\n5:memory:relative\n1:name=systemd:/\nbroken\n0::/user.slice/x (deleted)\n"

// own returns a file of this process.
func own(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile("/proc/self/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestStatIsReadBehindAnyName(t *testing.T) {
	for _, name := range []string{"sh", "a b", "a) S 1 (b", ")", "((", "x\ny", "x) Z 1\n"} {
		stat := []byte("17 (" + name + afterName)
		if ticks, ok := StartTime(stat); !ok || ticks != 4711 {
			t.Errorf("name %q: start time %d, %v", name, ticks, ok)
		}
		if s := State(stat); s != 'S' {
			t.Errorf("name %q: state %q", name, s)
		}
	}
}

func TestTruncatedTextHasNoValue(t *testing.T) {
	stat := "17 (sh" + afterName
	for n := range strings.Index(stat, "4711") + len("4711") + 1 {
		if ticks, ok := StartTime([]byte(stat[:n])); ok {
			t.Errorf("%q: start time %d", stat[:n], ticks)
		}
	}
	for _, s := range []string{"", "17", "17 (sh)", "17 (sh) ", "17 (sh) S", "17 S 1 2 "} {
		if state := State([]byte(s)); state != 0 {
			t.Errorf("%q: state %q", s, state)
		}
	}
	if v, ok := Status([]byte("Name:\tx\nTgid:\t12"), "Tgid"); ok {
		t.Errorf("a line without its end is %q", v)
	}
	if path := Cgroup([]byte("0::/a/b"), ""); path != nil {
		t.Errorf("a line without its end is %q", path)
	}
}

func TestStatusLines(t *testing.T) {
	status := []byte(aStatus)
	if id, ok := StatusID(status, "PPid"); !ok || id != 7 {
		t.Errorf("PPid %d, %v", id, ok)
	}
	for _, bad := range []string{"PPid:\t\n", "PPid:\t-1\n", "PPid:\tx\n", "PPid:\t4294967296\n", "PPid\n", "XPPid:\t1\n", ""} {
		if id, ok := StatusID([]byte(bad), "PPid"); ok {
			t.Errorf("%q: %d", bad, id)
		}
	}
	if ids := slices.Collect(StatusIDs(status, "NSpid")); !slices.Equal(ids, []int{13, 4, 2}) {
		t.Errorf("NSpid %v", ids)
	}
	if ids := slices.Collect(StatusIDs(status, "NSsid")); len(ids) != 0 {
		t.Errorf("NSsid %v, and there is none", ids)
	}
	if ids := slices.Collect(StatusIDs([]byte("NSpid:\t13\tx\t2\n"), "NSpid")); len(ids) != 0 {
		t.Errorf("ids around a word: %v", ids)
	}
	if caps, ok := Capabilities(status); !ok || caps != 1<<41-1 {
		t.Errorf("capabilities %x, %v", caps, ok)
	}
	for _, bad := range []string{"", "CapEff:\n", "CapEff:\txyz\n", "CapPrm:\t1\n"} {
		if caps, ok := Capabilities([]byte(bad)); ok {
			t.Errorf("%q: %x", bad, caps)
		}
	}
}

func TestCgroupLines(t *testing.T) {
	for controller, want := range map[string]string{
		"cpu": "/a b:c", "cpuacct": "/a b:c", "": "/user.slice/x (deleted)", "name=systemd": "/", "memory": "", "pids": "",
	} {
		if got := Cgroup([]byte(aCgroup), controller); string(got) != want {
			t.Errorf("%q: %q, want %q", controller, got, want)
		}
	}
	// Only the v2 tree has no controllers, and its number is 0.
	if got := Cgroup([]byte("3::/x\n0:cpu:/y\n"), ""); got != nil {
		t.Errorf("v2: %q", got)
	}
}

func TestOwnFilesAreRead(t *testing.T) {
	// The state in /proc/self/stat is that of the first thread, which may sleep meanwhile.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stat, err := os.ReadFile("/proc/thread-self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if s := State(stat); s != 'R' {
		t.Errorf("state %q", s)
	}
	if ticks, ok := StartTime(own(t, "stat")); !ok || ticks == 0 {
		t.Errorf("start time %d, %v", ticks, ok)
	}
	status := own(t, "status")
	if id, ok := StatusID(status, "Tgid"); !ok || id != os.Getpid() {
		t.Errorf("Tgid %d, %v", id, ok)
	}
	if id, ok := StatusID(status, "PPid"); !ok || id != os.Getppid() {
		t.Errorf("PPid %d, %v", id, ok)
	}
	ids := slices.Collect(StatusIDs(status, "NStgid"))
	if len(ids) == 0 || ids[len(ids)-1] != os.Getpid() {
		t.Errorf("NStgid %v", ids)
	}
	if _, ok := Capabilities(status); !ok {
		t.Error("no capabilities")
	}
	n := 0
	for range Cgroups(own(t, "cgroup")) {
		n++
	}
	if n != bytes.Count(own(t, "cgroup"), []byte("\n")) {
		t.Errorf("%d lines of %q", n, own(t, "cgroup"))
	}
}

func TestParsingDoesNotAllocate(t *testing.T) {
	stat, status, group := own(t, "stat"), own(t, "status"), own(t, "cgroup")
	sum := 0
	if a := testing.AllocsPerRun(100, func() {
		sum += int(State(stat))
		ticks, _ := StartTime(stat)
		caps, _ := Capabilities(status)
		id, _ := StatusID(status, "PPid")
		sum += int(ticks) + int(caps) + id
		for id := range StatusIDs(status, "NSpid") {
			sum += id
		}
		sum += len(Cgroup(group, "memory")) + len(Cgroup(group, ""))
	}); a != 0 {
		t.Errorf("%v allocations, want 0", a)
	}
	if sum == 0 {
		t.Error("nothing was parsed")
	}
}

func FuzzStat(f *testing.F) {
	f.Add("17 (sh" + afterName)
	f.Add(") S 1")
	f.Add("1 (x) R 2\n(y) Z 3 ")
	f.Fuzz(func(t *testing.T, text string) {
		_, after, _ := cutLast(text, ")")
		fields := strings.FieldsFunc(after, func(r rune) bool { return r == ' ' || r == '\n' })
		if s := State([]byte(text)); s != 0 && (len(fields) == 0 || fields[0] != string([]byte{s})) {
			t.Fatalf("%q: state %q", text, s)
		}
		if ticks, ok := StartTime([]byte(text)); ok && !slices.ContainsFunc(fields, func(f string) bool {
			n, err := strconv.ParseUint(f, 10, 64)
			return err == nil && n == ticks
		}) {
			t.Fatalf("%q: start time %d", text, ticks)
		}
	})
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func FuzzStatus(f *testing.F) {
	f.Add(aStatus, "NSpid")
	f.Add("a:\nb:", "")
	f.Fuzz(func(t *testing.T, text, key string) {
		value, ok := Status([]byte(text), key)
		if ok && !strings.Contains(text, key+":") || bytes.IndexByte(value, '\n') >= 0 && !strings.Contains(key, "\n") {
			t.Fatalf("%q of %q is %q", key, text, value)
		}
		for id := range StatusIDs([]byte(text), key) {
			if id < 0 || !strings.Contains(string(value), strconv.Itoa(id)) {
				t.Fatalf("%q of %q has id %d", key, text, id)
			}
		}
	})
}

func FuzzCgroup(f *testing.F) {
	f.Add(aCgroup, "cpuacct")
	f.Add("0::/../..\n", "")
	f.Add(":::\n::\n0:\n/\n", "memory")
	f.Fuzz(func(t *testing.T, text, controller string) {
		path := Cgroup([]byte(text), controller)
		if path != nil && (path[0] != '/' || bytes.IndexByte(path, '\n') >= 0 || !strings.Contains(text, ":"+string(path)+"\n")) {
			t.Fatalf("%q of %q is %q", controller, text, path)
		}
	})
}
