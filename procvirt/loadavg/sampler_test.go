// SPDX-License-Identifier: Apache-2.0

package loadavg

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// world is a fake machine: a clock that a test moves, and groups.
type world struct {
	mu  sync.Mutex
	now int64
}

func (w *world) clock() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// sampler makes one whose goroutine does nothing: the test does its work.
func (w *world) sampler() *Sampler {
	s := NewSampler(w.clock)
	s.running = true
	return s
}

// run moves the clock to until, and does the sampler's work on the way.
func (w *world) run(s *Sampler, until int64) {
	earliest := int64(0)
	for {
		due, ok := s.next()
		s.running = true
		due = max(due, earliest)
		if !ok || due > until {
			w.now = until
			return
		}
		w.now = max(w.now, due)
		earliest = w.now + s.work(w.now)*rest
	}
}

type fakeGroup struct {
	used   uint64
	counts Counts
	looks  int
	err    error

	reads, counted int
}

func (g *fakeGroup) Save(State) {}

func (g *fakeGroup) Used() (uint64, error) {
	g.reads++
	return g.used, g.err
}

func (g *fakeGroup) Count(Counts, int) (Counts, int, error) {
	g.counted++
	return g.counts, max(g.looks, 1), g.err
}

func track(t *testing.T, s *Sampler, g Group, from State) *Tracked {
	t.Helper()
	tr, err := s.Track(g, from)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

const second = int64(time.Second)

func TestEachPeriodIsOneStepOfTheKernels(t *testing.T) {
	w := &world{now: 1000 * second}
	s := w.sampler()
	g := &fakeGroup{counts: Counts{Running: 3, Blocked: 1, Total: 9, LastPID: 7}}
	tr := track(t, s, g, State{At: w.now})
	if st, ok := tr.Read(); !ok || st.Averages != (Averages{}) || st.Counts != g.counts {
		t.Errorf("at once: %+v %v", st, ok)
	}
	var want Averages
	for k := range 400 {
		g.used++
		w.run(s, w.now+period)
		want.step(4*One, 1)
		if st, ok := tr.Read(); !ok || st.Averages != want {
			t.Fatalf("after %d periods: %+v %v, want %v", k+1, st, ok, want)
		}
	}
	if want[2] < 3*One {
		t.Errorf("%v after half an hour of 4", want)
	}
	if g.counted != 401 {
		t.Errorf("%d counts in 400 periods", g.counted)
	}
}

// TestAGroupThatUsesNoTimeIsNotLookedAt guards the cheap way, and that it does not
// last: a thread may have been moved in.
func TestAGroupThatUsesNoTimeIsNotLookedAt(t *testing.T) {
	w := &world{now: 1000 * second}
	s := w.sampler()
	g := &fakeGroup{used: 5, counts: Counts{Blocked: 2, Total: 2}}
	tr := track(t, s, g, State{At: w.now, Used: 5})
	w.run(s, w.now+11*period)
	if g.counted != 1 || g.reads != 12 {
		t.Errorf("%d counts and %d readings in 11 periods", g.counted, g.reads)
	}
	var want Averages
	want.step(2*One, 1)
	for range 10 {
		want.step(2*One, 1)
	}
	if st, _ := tr.Read(); st.Averages != want {
		t.Errorf("%v, want %v: those that are blocked use no time and count", st.Averages, want)
	}
	g.counts.Blocked = 0
	w.run(s, w.now+period)
	if st, _ := tr.Read(); g.counted != 2 || st.Blocked != 0 {
		t.Errorf("%d counts in 12 periods, %+v", g.counted, st)
	}
	g.used++
	w.run(s, w.now+period)
	if g.counted != 3 {
		t.Errorf("not counted when it used time")
	}
}

// TestTheTimeBeforeIsTheCPUTimes guards a container that is read now and then: a
// monitor's first look, and one each 20 minutes.
func TestTheTimeBeforeIsTheCPUTimes(t *testing.T) {
	w := &world{now: 7200 * second}
	s := w.sampler()
	g := &fakeGroup{used: uint64(3 * 3600 * second), counts: Counts{Total: 1}}
	tr := track(t, s, g, State{At: 3600 * second})
	st, _ := tr.Read()
	for i, a := range st.Averages {
		if a < One*29/10 || a > One*3 {
			t.Errorf("average %d after an hour of 3 CPUs: %.2f", i, float64(a)/One)
		}
	}
	w.run(s, w.now+int64(16*time.Minute))
	if _, ok := tr.Read(); ok || len(s.queue) != 0 {
		t.Error("sampled without a reader for 16 minutes")
	}
	g.used += uint64(1000 * second)
	w.now += 1000 * second
	again := track(t, s, g, tr.State())
	if st, _ = again.Read(); st.Averages[0] < One/2 || st.Averages[0] > One {
		t.Errorf("after 2000 s with 1000 s of CPU time: %.2f", float64(st.Averages[0])/One)
	}
}

// TestALongStopDoesNoHarm guards a daemon that was stopped, for hours: the CPU time
// stands for what was missed, and nothing is done twice.
func TestALongStopDoesNoHarm(t *testing.T) {
	w := &world{now: 1000 * second}
	s := w.sampler()
	g := &fakeGroup{counts: Counts{Running: 1, Total: 1}}
	tr := track(t, s, g, State{At: w.now})
	w.run(s, w.now+period)
	before := g.reads
	tr.Read()
	w.now += int64(10 * time.Minute)
	g.used += uint64(1200 * second)
	s.work(w.now)
	st, ok := tr.Read()
	if !ok || st.Averages[0] < One*18/10 || st.Averages[0] > 2*One || g.reads != before+1 {
		t.Errorf("after 10 minutes of 2 CPUs: %+v %v, %d readings", st, ok, g.reads-before)
	}
	if late := w.now - st.At; late < 0 || late >= period {
		t.Errorf("the averages are of %d ns before", late)
	}
	if due, _ := s.next(); due <= w.now || due > w.now+period {
		t.Errorf("due in %d ns", due-w.now)
	}
}

// TestAClockThatWentBackDoesNoHarm is for a state of another boot.
func TestAClockThatWentBackDoesNoHarm(t *testing.T) {
	w := &world{now: 10 * second}
	s := w.sampler()
	from := State{Averages: Averages{One, One, One}, At: 5000 * second, Used: 1 << 50}
	tr := track(t, s, &fakeGroup{counts: Counts{Running: 1, Total: 1}}, from)
	w.run(s, w.now+3*period)
	if st, ok := tr.Read(); !ok || st.Averages != from.Averages || st.At > w.now {
		t.Errorf("%+v %v", st, ok)
	}
}

func TestAGroupThatIsGoneIsDropped(t *testing.T) {
	w := &world{now: 1000 * second}
	s := w.sampler()
	g := &fakeGroup{}
	tr := track(t, s, g, State{At: w.now})
	g.err = errors.New("removed")
	w.run(s, w.now+period)
	if _, ok := tr.Read(); ok || len(s.queue) != 0 {
		t.Error("still tracked")
	}
	if _, err := s.Track(g, State{}); err != g.err || len(s.queue) != 0 {
		t.Errorf("tracked anew: %v", err)
	}
	tr.Stop()
	(*Tracked)(nil).Stop()
}

func TestTheOneReadLongestAgoMakesRoom(t *testing.T) {
	w := &world{now: 1000 * second}
	s := w.sampler()
	var all []*Tracked
	for range maxTracked {
		w.now++
		all = append(all, track(t, s, &fakeGroup{}, State{At: w.now}))
	}
	w.now++
	all[0].Read()
	last := track(t, s, &fakeGroup{}, State{At: w.now})
	for i, tr := range all {
		if _, ok := tr.Peek(); ok == (i == 1) {
			t.Errorf("%d: tracked %v", i, ok)
		}
	}
	if _, ok := last.Peek(); !ok || len(s.queue) != maxTracked {
		t.Errorf("the last: %v, %d in all", ok, len(s.queue))
	}
}

// TestSamplesAreSpread guards against bursts: all containers may have been read
// for the first time at the same moment.
func TestSamplesAreSpread(t *testing.T) {
	w := &world{now: 1000 * second}
	s := w.sampler()
	at := map[int64]int{}
	for range 1000 {
		at[track(t, s, &fakeGroup{}, State{At: w.now}).due]++
	}
	if len(at) != phases {
		t.Errorf("at %d moments, want %d", len(at), phases)
	}
	for due, n := range at {
		if n != 1000/phases || due <= w.now || due > w.now+period {
			t.Errorf("%d after %d ns", n, due-w.now)
		}
	}
}

// TestADearContainerDoesNotStarveOthers guards against a fork bomb: it is sampled
// less often, and the others as before.
func TestADearContainerDoesNotStarveOthers(t *testing.T) {
	w := &world{now: 1000 * second}
	s := w.sampler()
	bomb := &fakeGroup{looks: maxLooks, counts: Counts{Running: 9000, Total: maxLooks}}
	dear := track(t, s, bomb, State{At: w.now})
	var groups []*fakeGroup
	var others []*Tracked
	for range 100 {
		g := &fakeGroup{counts: Counts{Running: 1, Total: 1}}
		groups = append(groups, g)
		others = append(others, track(t, s, g, State{At: w.now}))
	}
	const periods = 100
	for range periods {
		bomb.used++
		for _, g := range groups {
			g.used++
		}
		w.run(s, w.now+period)
		dear.Read()
		for _, o := range others {
			o.Read()
		}
	}
	if perPeriod := float64(bomb.counted) * maxLooks / periods; perPeriod > looksPerPeriod*1.2 {
		t.Errorf("%.0f looks a period for one container", perPeriod)
	}
	st, _ := dear.Read()
	if load := float64(st.Averages[0]) / One; load < 8900 || load > 9000 {
		t.Errorf("its load is %.0f", load)
	}
	var want Averages
	want.step(One, 1)
	for range periods - 1 {
		want.step(One, 1)
	}
	for i, o := range others {
		if st, _ := o.Read(); st.Averages[0] < want[0]-20 || groups[i].counted < periods-2 {
			t.Errorf("%d: %d counts, %v, want %v", i, groups[i].counted, st.Averages, want)
		}
	}
}

// TestAllTogetherCostATenth guards the host, whatever the containers do.
func TestAllTogetherCostATenth(t *testing.T) {
	w := &world{now: 1000 * second}
	s := w.sampler()
	var groups []*fakeGroup
	var all []*Tracked
	for range 500 {
		g := &fakeGroup{looks: 1900, counts: Counts{Running: 2, Total: 1900}}
		groups = append(groups, g)
		all = append(all, track(t, s, g, State{At: w.now}))
	}
	start, looks := w.now, 0
	for range 200 {
		for _, g := range groups {
			g.used += uint64(2 * period)
		}
		w.run(s, w.now+period)
		for _, tr := range all {
			tr.Read()
		}
	}
	for i, g := range groups {
		looks += (g.counted - 1) * g.looks
		if st, ok := all[i].Read(); !ok || st.Averages[0] < One*3/2 || st.Averages[0] > One*5/2 {
			t.Errorf("%d: %v %v, want about 2", i, st.Averages, ok)
		}
	}
	if share := float64(looks) * 8e3 / float64(w.now-start); share > 0.12 {
		t.Errorf("%.2f of a CPU at 8 us a look", share)
	}
}

// TestTheGoroutineEndsWithTheLastContainer guards the idle daemon: with nothing to
// sample there is nothing that wakes it.
func TestTheGoroutineEndsWithTheLastContainer(t *testing.T) {
	start := time.Now()
	// A period is 5 ms by this clock, but not for the timer.
	s := NewSampler(func() int64 { return int64(time.Since(start)) * 1000 })
	g := &fakeGroup{counts: Counts{Running: 1, Total: 1}}
	for range 3 {
		tr := track(t, s, g, State{})
		for st := tr.State(); st.Averages[0] == 0; st, _ = tr.Read() {
			time.Sleep(time.Millisecond)
			s.wake()
		}
		tr.Stop()
		s.wake()
		s.done.Wait()
		if s.running || len(s.queue) != 0 {
			t.Fatal("it did not end")
		}
	}
	s.Close()
	(*Sampler)(nil).Close()
}

func TestCloseEndsTheGoroutine(t *testing.T) {
	s := NewSampler(func() int64 { return 0 }) // nothing is ever due
	tr := track(t, s, &fakeGroup{}, State{})
	s.Close()
	tr.Stop()
}
