// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"math"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// resolve resolves pid and checks that the init is the one wanted.
func resolve(t *testing.T, r *Resolver, pid, wantPID int) Init {
	t.Helper()
	init, err := r.Resolve(pid)
	if err != nil {
		t.Fatalf("Resolve(%d): %v", pid, err)
	}
	if ns := nsOf(t, wantPID); init.PID != wantPID || init.NS != ns || init.Host {
		t.Fatalf("Resolve(%d) = %+v, want init %d of namespace %d", pid, init, wantPID, ns)
	}
	return init
}

// asks are the ways to ask for an answer that is at hand.
func asks(r *Resolver) []func(int) (Init, error) {
	return []func(int) (Init, error){r.Resolve, func(pid int) (Init, error) {
		init, ok, err := r.Lookup(pid)
		if !ok {
			err = errors.New("not cached")
		}
		return init, err
	}}
}

// wantCold checks that the init of pid is not cached.
func wantCold(t *testing.T, r *Resolver, pid int) {
	t.Helper()
	if init, ok, err := r.Lookup(pid); ok || err != nil || init != (Init{NS: nsOf(t, pid)}) {
		t.Errorf("Lookup(%d) = %+v, %v, %v; want nothing but the namespace", pid, init, ok, err)
	}
}

func TestInitIsFoundThenCached(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		c := startContainer(t, "init", newPIDNS)
		wantCold(t, r, c.pid)
		found := resolve(t, r, c.pid, c.pid)
		if found.By != m || r.by != m {
			t.Errorf("found by %v, resolver says %v, want %v", found.By, r.by, m)
		}
		hit, ok, err := r.Lookup(c.pid)
		found.By = Cache
		if err != nil || !ok || hit != found {
			t.Errorf("Lookup = %+v, %v, %v; want %+v", hit, ok, err, found)
		}
	})
}

func TestAllMethodsGiveTheSameAnswer(t *testing.T) {
	c := startCrowd(t, "nested", 2)
	var answers []Init
	eachMethod(t, func(t *testing.T, m Method) {
		init, err := newResolver(t, Config{Method: m}).Resolve(c.pid)
		if err != nil || init.By != m {
			t.Fatalf("%+v, %v", init, err)
		}
		init.By = Auto
		answers = append(answers, init)
	})
	for _, a := range answers {
		if a != answers[0] {
			t.Errorf("methods differ: %+v", answers)
		}
	}
}

func TestInnermostNamespaceWins(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		outer := startCrowd(t, "nested", 2)
		inner := childrenOf(outer.pid)
		if len(inner) != 1 {
			t.Fatalf("children of the outer init: %v, want one", inner)
		}
		resolve(t, r, inner[0], inner[0])
		resolve(t, r, outer.pid, outer.pid)
	})
}

// joined starts a process in the pid namespace of pid, as nsenter does.
func joined(t *testing.T, pid int) *container {
	t.Helper()
	done := make(chan *container)
	go func() {
		runtime.LockOSThread() // never undone: the thread ends with the goroutine
		defer close(done)
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(err)
		defer unix.Close(fd)
		must(unix.Setns(fd, unix.CLONE_NEWPID))
		done <- startCmd(t, "init", &syscall.SysProcAttr{})
	}()
	c := <-done
	if c == nil {
		t.FailNow()
	}
	return c
}

func TestProcessThatJoinedHasTheNamespacesInit(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		c := startContainer(t, "init", newPIDNS)
		guest := joined(t, c.pid)
		resolve(t, r, guest.pid, c.pid)
		guest.end() // before the init, which waits for it
	})
}

func TestCallerMayBeAnyThread(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		c := startContainer(t, "init", newPIDNS)
		tasks, err := os.ReadDir("/proc/" + strconv.Itoa(c.pid) + "/task")
		must(err)
		others := 0
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			if tid != c.pid {
				others++
				resolve(t, r, tid, c.pid)
			}
		}
		if others == 0 {
			t.Error("the container has no thread but the first")
		}
	})
}

func TestInitWhoseFirstThreadExitedIsFound(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		gone := make(chan uint64, 1)
		r := newResolver(t, Config{Method: m, Gone: func(ns uint64) { gone <- ns }})
		c := startContainer(t, "leaderless", newPIDNS)
		eventually(t, "first thread to exit", func() bool { return stateOf(c.pid) == 'Z' })
		ns := resolve(t, r, c.pid, c.pid).NS
		guest := joined(t, c.pid)
		resolve(t, r, guest.pid, c.pid)
		if _, ok, err := r.Lookup(guest.pid); !ok || err != nil {
			t.Errorf("Lookup: %v, %v", ok, err)
		}
		guest.end()
		c.end()
		waitGone(t, gone, ns)
	})
}

func waitGone(t *testing.T, gone <-chan uint64, ns uint64) {
	t.Helper()
	select {
	case got := <-gone:
		if got != ns {
			t.Errorf("Gone(%d), want %d", got, ns)
		}
	case <-time.After(patience):
		t.Fatalf("no Gone(%d)", ns)
	}
}

func TestOwnNamespaceIsHost(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		r.find = func(_, _ int, _ uint64) (int, Method, error) {
			return 0, Auto, errors.New("asked for our own namespace")
		}
		c := startContainer(t, "init", 0)
		for _, pid := range []int{os.Getpid(), unix.Gettid(), c.pid} {
			for _, ask := range asks(r) {
				init, err := ask(pid)
				if err != nil || !init.Host || init.PID != 1 || init.By != Host || init.NS != nsOf(t, os.Getpid()) {
					t.Errorf("%d: %+v, %v; want the host", pid, init, err)
				}
			}
		}
	})
}

func TestNonsensePIDs(t *testing.T) {
	r := newResolver(t, Config{})
	for pid, want := range map[int]error{
		0: ErrNotVisible, -1: ErrCallerGone, math.MinInt: ErrCallerGone, math.MaxInt: ErrCallerGone,
		1<<22 + 1: ErrCallerGone, // above the largest pid_max
	} {
		for _, ask := range asks(r) {
			_, err := ask(pid)
			wantErr(t, strconv.Itoa(pid), err, want)
		}
	}
}

func TestDeadCallerIsGone(t *testing.T) {
	r := newResolver(t, Config{})
	c := startContainer(t, "init", newPIDNS)
	resolve(t, r, c.pid, c.pid)
	c.end()
	for _, ask := range asks(r) {
		_, err := ask(c.pid)
		wantErr(t, "dead caller", err, ErrCallerGone)
	}
}

func TestZombieInitIsNoInit(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		c := startContainer(t, "init", newPIDNS)
		c.kill(t)
		init, err := r.Resolve(c.pid)
		wantErr(t, "Resolve", err, ErrNoInit)
		if init.PID != 0 {
			t.Errorf("got %+v", init)
		}
	})
}

func TestHitIsDroppedWhenInitDies(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		gone := make(chan uint64, 1)
		r := newResolver(t, Config{Method: m, Gone: func(ns uint64) { gone <- ns }})
		c := startContainer(t, "init", newPIDNS)
		ns := resolve(t, r, c.pid, c.pid).NS
		c.kill(t) // a zombie can still be asked about
		waitGone(t, gone, ns)
		wantCold(t, r, c.pid)
		_, err := r.Resolve(c.pid)
		wantErr(t, "Resolve of a zombie", err, ErrNoInit)
		_, _, err = r.Lookup(c.pid)
		wantErr(t, "cached failure", err, ErrNoInit)
	})
}

// TestInitThatDiesDuringResolutionIsNoInit kills the init after it was found
// and before it is verified.
func TestInitThatDiesDuringResolutionIsNoInit(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		find := r.find
		c := startContainer(t, "init", newPIDNS)
		r.find = func(caller, nsfd int, ns uint64) (int, Method, error) {
			pid, by, err := find(caller, nsfd, ns)
			c.end()
			return pid, by, err
		}
		_, err := r.Resolve(c.pid)
		wantErr(t, "Resolve", err, ErrNoInit)
	})
}

func TestFailureIsKeptBriefly(t *testing.T) {
	r := newResolver(t, Config{ErrorTTL: 200 * time.Millisecond})
	var asked atomic.Int32
	broken := errors.New("broken")
	find := r.find
	r.find = func(_, _ int, _ uint64) (int, Method, error) { asked.Add(1); return 0, Auto, broken }
	c := startContainer(t, "init", newPIDNS)
	start := time.Now()
	for range 50 {
		_, err := r.Resolve(c.pid)
		wantErr(t, "Resolve", err, broken)
	}
	if most := 1 + int32(time.Since(start)/(200*time.Millisecond)); asked.Load() > most {
		t.Errorf("asked %d times for 50 callers, want at most %d", asked.Load(), most)
	}
	r.find = find
	eventually(t, "the failure to be forgotten", func() bool { _, err := r.Resolve(c.pid); return err == nil })
}

func TestColdNamespaceIsResolvedOnceForManyAskers(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		var asked atomic.Int32
		find := r.find
		r.find = func(caller, nsfd int, ns uint64) (int, Method, error) { asked.Add(1); return find(caller, nsfd, ns) }
		c := startContainer(t, "init", newPIDNS)
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if init, err := r.Resolve(c.pid); err != nil || init.PID != c.pid {
					t.Errorf("Resolve = %+v, %v", init, err)
				}
			})
		}
		wg.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("%d resolutions, want 1", n)
		}
	})
}

// TestExpiredAnswerIsRenewedWithoutFinding also guards that Gone is not called
// for it, and that no descriptors pile up.
func TestExpiredAnswerIsRenewedWithoutFinding(t *testing.T) {
	var gone atomic.Int32
	r := newResolver(t, Config{TTL: 1, Gone: func(uint64) { gone.Add(1) }})
	c := startContainer(t, "init", newPIDNS)
	resolve(t, r, c.pid, c.pid)
	r.find = func(_, _ int, _ uint64) (int, Method, error) { return 0, Auto, errors.New("asked again") }
	before := len(openFiles())
	for range 20 {
		wantCold(t, r, c.pid)
		if init := resolve(t, r, c.pid, c.pid); init.By != Cache {
			t.Errorf("By = %v, want cache", init.By)
		}
	}
	if n := len(openFiles()); n != before || gone.Load() != 0 {
		t.Errorf("%d descriptors, before %d; Gone called %d times", n, before, gone.Load())
	}
}

func TestMaxBoundsEntriesAndDescriptors(t *testing.T) {
	gone := make(chan uint64, 10)
	r := newResolver(t, Config{Max: 2, Idle: func(ns uint64) { gone <- ns }})
	var cs []*container
	for range 5 {
		cs = append(cs, startContainer(t, "init", newPIDNS))
	}
	before := len(openFiles())
	var want []uint64
	for _, c := range cs {
		want = append(want, resolve(t, r, c.pid, c.pid).NS)
	}
	if n := len(openFiles()) - before; n != 4 {
		t.Errorf("%d descriptors for 2 entries, want 4", n)
	}
	if len(gone) != 3 {
		t.Fatalf("Idle was called %d times, want 3", len(gone))
	}
	for _, ns := range want[:3] {
		waitGone(t, gone, ns)
	}
	resolve(t, r, cs[0].pid, cs[0].pid)
}

func TestClosedResolverAnswersErrClosed(t *testing.T) {
	before := len(openFiles())
	r := newResolver(t, Config{})
	c := startContainer(t, "init", newPIDNS)
	resolve(t, r, c.pid, c.pid)
	c.end()
	r.Close()
	if n := len(openFiles()); n != before {
		t.Errorf("%d descriptors after Close, %d before New", n, before)
	}
	_, _, err := r.Lookup(os.Getpid())
	wantErr(t, "Lookup", err, ErrClosed)
	_, err = r.Resolve(os.Getpid())
	wantErr(t, "Resolve", err, ErrClosed)
}

func TestHitDoesNotAllocate(t *testing.T) {
	r := newResolver(t, Config{})
	c := startContainer(t, "init", newPIDNS)
	resolve(t, r, c.pid, c.pid)
	if a := testing.AllocsPerRun(1000, func() {
		if _, ok, err := r.Lookup(c.pid); !ok || err != nil {
			t.Error(ok, err)
		}
	}); a != 0 {
		t.Errorf("Lookup allocates %v times, want 0", a)
	}
}
