// SPDX-License-Identifier: Apache-2.0

package top

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"vprocfs/internal/count"
	"vprocfs/internal/daemon"
	"vprocfs/internal/report"
	"vprocfs/internal/supervise"
	"vprocfs/procvirt"
)

// hostile is a name that would do something to a terminal.
const hostile = "evil\x1b[2J\x1b]0;owned\a\u009b31m\u202e\u200b\r\n\t\x7f\xff"

// fakeDaemon answers as it is set.
type fakeDaemon struct {
	status     *report.Status
	containers []report.Container
	groups     []procvirt.GroupReads
	err        error
	asked      []uint64
}

func (d *fakeDaemon) Status() (*report.Status, error)         { return d.status, d.err }
func (d *fakeDaemon) Containers() ([]report.Container, error) { return d.containers, d.err }
func (d *fakeDaemon) Files(ns uint64) ([]procvirt.GroupReads, error) {
	d.asked = append(d.asked, ns)
	return d.groups, d.err
}

// container returns container number i, which reads i times per second.
func container(i int) report.Container {
	group := fmt.Sprintf("/group/%d", i)
	return report.Container{Name: report.NameOf(group), ContainerInfo: procvirt.ContainerInfo{
		Init: 1000 + i, Namespace: uint64(i), Group: group, PerSecond: float64(i), CPUs: 2, Memory: 256 << 20, Uptime: 60,
	}}
}

func containers(n int) (all []report.Container) {
	for i := range n {
		all = append(all, container(i))
	}
	return all
}

func status(worker int) *report.Status {
	s := &report.Status{Well: true, Worker: &daemon.Stats{}}
	s.Daemon.MountPoint, s.Daemon.Version = "/var/lib/vprocfs", "v1"
	s.Daemon.Holder = supervise.Status{PID: 4194303, Worker: worker, Serving: true, Since: time.Unix(1000, 0)}
	s.Daemon.Holder.Began = time.Unix(0, 0)
	s.Worker.Process.PID = worker
	s.Worker.Server.Reads = count.Durations{Buckets: make([]uint64, count.NumBuckets)}
	return s
}

// looks is a model whose samples are a second apart.
type looks struct {
	*model
	*fakeDaemon
	now time.Time
}

func newLooks(n int) *looks {
	m := newModel(report.ListOptions{Sort: "reads/s"}, time.Second, unicodeBars)
	return &looks{m, &fakeDaemon{status: status(18), containers: containers(n)}, time.Unix(1000, 0)}
}

func (l *looks) look() {
	l.now = l.now.Add(time.Second)
	l.add(take(l.fakeDaemon, l.wanted(), func() time.Time { return l.now }))
}

func (l *looks) enter(keys string) {
	for _, k := range keys {
		l.press(pressed(k))
	}
}

// text returns the screen.
func (l *looks) screen(width, height int) string {
	var b strings.Builder
	for _, line := range l.draw(width, height, l.now) {
		b.WriteString(line.text + "\n")
	}
	return b.String()
}

func (l *looks) wantText(t *testing.T, parts ...string) {
	t.Helper()
	text := l.screen(100, 30)
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("no %q in\n%s", p, text)
		}
	}
}

// first returns the name in the first line of the list.
func (l *looks) first() string { return l.chosen[0].Name }

// TestEachSizeIsFilled: there are as many lines as the terminal has, whatever is shown, and
// those of the list are no wider than it.
func TestEachSizeIsFilled(t *testing.T) {
	for _, n := range []int{0, 1, 1000} {
		l := newLooks(n)
		for _, keys := range []string{"", "h", " ", "/1", string(rune(keyEnter))} {
			l.look()
			if keys == string(rune(keyEnter)) {
				l.press(keyEnter)
				l.press(keyEnter)
			} else {
				l.enter(keys)
			}
			for _, size := range [][2]int{{80, 24}, {120, 40}, {200, 60}, {20, 5}, {1, 1}} {
				lines := l.draw(size[0], size[1], l.now)
				if len(lines) != size[1] {
					t.Errorf("%d containers, %q, %v: %d lines", n, keys, size, len(lines))
				}
				if size[0] < 80 {
					continue
				}
				for _, line := range lines {
					if w := utf8.RuneCountInString(line.text); w > size[0] {
						t.Errorf("%q, %v: %d wide: %s", keys, size, w, line.text)
					}
				}
			}
		}
	}
}

// TestNothingReachesTheTerminalAsAnEscape, from wherever a container may have chosen it.
func TestNothingReachesTheTerminalAsAnEscape(t *testing.T) {
	l := newLooks(0)
	evil := container(1)
	evil.Name, evil.Group, evil.Load = hostile, "/"+hostile, hostile
	evil.Policy = []procvirt.PolicyWord{{Key: hostile, Value: hostile}}
	l.containers = []report.Container{evil}
	l.groups = []procvirt.GroupReads{{Group: evil.Group, Files: []procvirt.FileReads{{File: hostile, N: 1}}}}
	l.look()
	l.status = status(19)
	l.status.Daemon.Holder.Restarts = 1
	l.status.Daemon.Holder.LastRestarts = []supervise.Restart{{PID: 18, Reason: hostile}}
	l.status.Daemon.Version, l.status.Daemon.MountPoint = hostile, hostile
	l.status.Problems = []string{hostile}
	l.look()
	check := func() {
		t.Helper()
		l.look()
		text := l.screen(200, 60)
		if !strings.Contains(text, "evil") && !strings.Contains(text, "no answer") {
			t.Errorf("the name is not shown:\n%s", text)
		}
		for _, r := range text {
			if !unicode.IsPrint(r) && r != '\n' {
				t.Fatalf("%q in\n%q", r, text)
			}
		}
	}
	check()
	l.enter("/" + "evil")
	check()
	l.press(keyEnter)
	l.press(keyEnter)
	check()
	l.err = errors.New(hostile)
	check()
}

// TestKeysSortAndFilter, and the list follows each of them.
func TestKeysSortAndFilter(t *testing.T) {
	l := newLooks(30)
	l.look()
	for _, c := range []struct{ keys, first string }{
		{"", "/group/29"}, {"r", "/group/0"}, {"N", "/group/0"}, {">", "/group/0"}, {">r", "/group/0"},
		{"I", "/group/0"}, {"r", "/group/29"}, {"R", "/group/29"}, {"<", "/group/0"}, {"R/12", "/group/12"},
	} {
		l.enter(c.keys)
		if got := l.first(); got != c.first {
			t.Errorf("after %q, by %s: %s, want %s", c.keys, l.options.Sort, got, c.first)
		}
	}
	l.wantText(t, "filter: 12_")
	l.press(keyBackspace)
	if len(l.chosen) != 12 { // 1, 10 to 19, 21
		t.Errorf("%d containers have a 1", len(l.chosen))
	}
	l.press(keyEscape)
	if l.options.Filter != "" || len(l.chosen) != 30 {
		t.Errorf("%q, %d containers", l.options.Filter, len(l.chosen))
	}
	l.enter("/2q")
	if l.quit || l.options.Filter != "2q" {
		t.Errorf("q in a filter: %t, %q", l.quit, l.options.Filter)
	}
	l.press(keyErase)
	l.press(keyEnter)
	l.press('q')
	if !l.quit {
		t.Error("q does not quit")
	}
}

// TestEachColumnHasAKey to sort by it.
func TestEachColumnHasAKey(t *testing.T) {
	columns := map[string]bool{}
	for _, name := range sortKeys() {
		columns[name] = true
	}
	for _, name := range report.SortNames() {
		if !columns[name] {
			t.Errorf("%s has none", name)
		}
		delete(columns, name)
	}
	if len(columns) > 0 {
		t.Errorf("no columns: %v", columns)
	}
}

// TestTheSelectedContainerStaysSelected while others overtake it; the first line is that of
// whoever is first.
func TestTheSelectedContainerStaysSelected(t *testing.T) {
	l := newLooks(30)
	l.look()
	l.press(keyDown)
	l.press(keyDown)
	l.containers[3].PerSecond = 99
	l.look()
	if l.cursor != 3 || l.chosen[l.cursor].Init != 1027 {
		t.Errorf("line %d, init %d", l.cursor, l.chosen[l.cursor].Init)
	}
	l.containers = append(l.containers[:27:27], l.containers[28:]...)
	l.look()
	if l.cursor != 3 || l.chosen[l.cursor].Init != 1026 {
		t.Errorf("after its end: line %d, init %d", l.cursor, l.chosen[l.cursor].Init)
	}
	l.press(keyHome)
	l.containers[5].PerSecond = 100
	l.look()
	if l.cursor != 0 || l.chosen[0].Init != 1005 {
		t.Errorf("line %d, init %d", l.cursor, l.chosen[0].Init)
	}
	l.press(keyEnd)
	l.wantText(t, "/group/0 ")
	l.containers = nil
	l.look()
	l.press(keyUp)
	l.press(keyEnter)
	if l.mode != modeList {
		t.Error("there is nothing to open")
	}
}

// TestADetailHasTheFiles, those that are read most first, with what was read since the last
// look.
func TestADetailHasTheFiles(t *testing.T) {
	l := newLooks(3)
	l.look()
	l.press(keyEnter)
	read := func(uptime, stat uint64) {
		l.groups = []procvirt.GroupReads{
			{Group: "/another", Files: []procvirt.FileReads{{File: "wrong", N: 7}}},
			{Group: "/group/2", Files: []procvirt.FileReads{
				{File: "uptime", N: uptime, Seconds: float64(uptime) * 20e-6, Slowest: 0.25},
				{File: "stat", N: stat, Seconds: float64(stat) * 50e-6},
			}},
		}
		l.look()
	}
	read(100, 5)
	l.wantText(t, "/group/2", "memory 256M", "uptime                           -         -         100      20µs     250ms")
	read(110, 45)
	l.wantText(t, "stat                            40      50µs          45      50µs", "uptime                          10      20µs         110")
	if text := l.screen(80, 24); strings.Index(text, "stat ") > strings.Index(text, "uptime ") || strings.Contains(text, "wrong") {
		t.Errorf("%s", text)
	}
	// Another worker counts from 0, perhaps beyond what the one before has counted.
	l.status = status(19)
	read(1000, 1000)
	l.wantText(t, "uptime                           -         -        1000")
	read(1001, 1000)
	l.wantText(t, "uptime                           1 ", "[█████]")
	l.containers = l.containers[:2]
	l.look()
	l.wantText(t, "/group/2", "it is gone")
	for _, ns := range l.asked {
		if ns != 2 {
			t.Errorf("namespace %d was asked for", ns)
		}
	}
	l.press(keyEscape)
	asked := len(l.asked)
	l.look()
	if len(l.asked) != asked {
		t.Error("files are asked for though nobody looks")
	}
}

// TestItGoesOnOverTheEndOfTheWorker: the list stays, and the screen says what happened.
func TestItGoesOnOverTheEndOfTheWorker(t *testing.T) {
	l := newLooks(3)
	l.look()
	l.wantText(t, ": well, /var/lib/vprocfs", "worker 18 ")
	l.status = status(0)
	l.status.Worker, l.status.Problems = nil, []string{"no worker is at work"}
	l.look()
	l.wantText(t, "not well: no worker is at work", "/group/2")
	if !l.stale() {
		t.Error("the list is not shown as old")
	}
	l.status = status(20)
	l.status.Daemon.Holder.Restarts = 1
	l.status.Daemon.Holder.LastRestarts = []supervise.Restart{{PID: 18, Reason: "signal: killed"}}
	l.look()
	l.wantText(t, ": well", "worker 20 ", "worker 18 ended: signal: killed", "/group/2")
	l.status = status(21)
	l.status.Daemon.Holder.Restarts, l.status.Daemon.Holder.Upgrades, l.status.Daemon.Version = 1, 1, "v2"
	l.look()
	l.wantText(t, "upgraded: version v2, worker 21", "worker 21 ")
	l.err, l.status = errors.New("no daemon listens"), nil
	l.look()
	since := l.now.Format(time.TimeOnly)
	l.look()
	l.wantText(t, "no answer since "+since+": no daemon listens", "/group/2")
	l.err, l.status = nil, status(21)
	l.status.Daemon.Holder.Restarts, l.status.Daemon.Holder.Upgrades, l.status.Daemon.Version = 1, 1, "v2"
	l.look()
	l.wantText(t, "the daemon answers again", ": well")
	// An upgrade while nobody answers is one all the same.
	again := l.status
	l.err, l.status = errors.New("no daemon listens"), nil
	l.look()
	l.err, l.status = nil, status(22)
	l.status.Daemon.Holder.Restarts, l.status.Daemon.Holder.Upgrades, l.status.Daemon.Version = 1, again.Daemon.Holder.Upgrades+1, "v3"
	l.look()
	l.wantText(t, "upgraded: version v3, worker 22", ": well")
	l.now = l.now.Add(time.Minute) // it hangs
	l.wantText(t, "no answer since ")
}

// TestRatesAreThoseSinceTheLastLook, or since the worker began.
func TestRatesAreThoseSinceTheLastLook(t *testing.T) {
	l := newLooks(1)
	l.status.Worker.Process.Uptime = 10
	l.status.Worker.Server.Reads.Buckets[5] = 100
	l.look()
	l.wantText(t, " 10 requests/s, 50 % in 31µs")
	s := status(18)
	s.Worker.Server.Reads.Buckets[5], s.Worker.Server.Reads.Buckets[10] = 100, 7
	l.status = s
	l.look()
	l.wantText(t, " 7 requests/s, 50 % in 977µs")
}

// TestHistoryIsBounded by how many samples are shown, and by the containers that live.
func TestHistoryIsBounded(t *testing.T) {
	h := history{}
	for i := range 3 * maxHistory {
		all := containers(2)
		all[1].PerSecond = float64(i)
		h.add(append(all, container(100+i)))
	}
	rates := h[key{1, "/group/1"}]
	if len(h) != 3 || len(rates) != maxHistory || cap(rates) > 4*maxHistory || rates[maxHistory-1] != 3*maxHistory-1 || rates[0] != 2*maxHistory {
		t.Errorf("%d containers, %d rates of %d, the last %v", len(h), len(rates), cap(rates), rates[maxHistory-1])
	}
}

// TestASparklineShowsTheLastRates: the highest is full, 0 empty, and the least that is not 0
// is seen.
func TestASparklineShowsTheLastRates(t *testing.T) {
	for _, c := range []struct {
		rates []float32
		width int
		want  string
	}{
		{nil, 10, ""}, {[]float32{0, 0}, 10, "  "}, {[]float32{9, 0, 1000, 500, 1}, 4, " █▅▁"}, {[]float32{1, 2}, 0, ""}, {[]float32{1, 2}, -2, ""},
	} {
		if got, _ := sparkline(c.rates, c.width, unicodeBars); got != c.want {
			t.Errorf("%v: %q, want %q", c.rates, got, c.want)
		}
	}
	if got, highest := sparkline([]float32{0, 8, 1}, 9, asciiBars); got != " @:" || highest != 8 {
		t.Errorf("%q, %v", got, highest)
	}
}

// TestTheLocaleSaysWhichCharactersThereAre: the first setting that is not empty.
func TestTheLocaleSaysWhichCharactersThereAre(t *testing.T) {
	for _, c := range []struct {
		all, ctype, lang string
		want             bool
	}{{"", "", "en_GB.UTF-8", true}, {"C", "", "en_GB.UTF-8", false}, {"", "C.utf8", "C", true}, {"", "", "", false}, {"", "", "POSIX", false}} {
		if got := isUTF8(c.all, c.ctype, c.lang); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

func TestShortDurationsHaveThreeDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 999: "999ns", 12345: "12.3µs", 123456: "123µs", 1234567: "1.23ms", 12345678: "12.3ms", 999999999: "1s", 12345 * time.Millisecond: "12.3s",
	} {
		if got := short(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
