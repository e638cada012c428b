// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pidLost is what startWithPID says where it cannot go on.
const pidLost = "a thread of this test has got the pid"

// runInside runs the test that calls it again, as the init of a new pid
// namespace with its own /proc, where it may choose pids. It returns true where
// that has been done, false inside.
func runInside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return false
	}
	for tries := 10; ; tries-- {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if err == nil {
			return true
		}
		if tries == 1 || !bytes.Contains(out, []byte(pidLost)) {
			t.Errorf("inside: %v\n%s", err, out)
			return true
		}
	}
}

// startWithPID starts a container whose init has the given pid. Only inside.
func startWithPID(t *testing.T, pid int) *container {
	t.Helper()
	for range 1000 {
		// A process that starts in between takes the pid: try again then. A
		// thread of Go's that does so keeps it.
		must(os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0))
		c := startContainer(t, "init", newPIDNS)
		if c.pid == pid {
			return c
		}
		c.end()
		if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(pid)); err == nil {
			t.Fatalf("%s %d", pidLost, pid)
		}
	}
	t.Fatalf("no process got pid %d", pid)
	return nil
}

func TestRecycledPIDIsNotMixedUp(t *testing.T) {
	if runInside(t) {
		return
	}
	eachMethod(t, func(t *testing.T, m Method) {
		var gone sync.Map
		r := newResolver(t, Config{Method: m, Gone: func(ns uint64) { gone.Store(ns, true) }})
		a := startContainer(t, "init", newPIDNS)
		for range 10 {
			was := resolve(t, r, a.pid, a.pid)
			a.end()
			b := startWithPID(t, a.pid)
			is := resolve(t, r, b.pid, b.pid)
			if is.By != m || is.ID != 0 && is.ID == was.ID {
				t.Fatalf("%+v is taken for %+v", is, was)
			}
			if _, told := gone.Load(was.NS); is.NS == was.NS && !told {
				t.Fatalf("namespace number %d is used again before Gone was called", is.NS)
			}
			gone.Delete(was.NS)
			a = b
		}
	})
}

// TestPIDRecycledDuringResolutionIsNotMixedUp lets another container's init
// take the pid after it was found and before it is verified.
func TestPIDRecycledDuringResolutionIsNotMixedUp(t *testing.T) {
	if runInside(t) {
		return
	}
	eachMethod(t, func(t *testing.T, m Method) {
		r := newResolver(t, Config{Method: m})
		a := startContainer(t, "init", newPIDNS)
		find, asked := r.find, 0
		r.find = func(caller, nsfd int, ns uint64) (int, Method, error) {
			asked++
			pid, by, err := find(caller, nsfd, ns)
			if asked == 1 {
				a.end()
				startWithPID(t, a.pid)
			}
			return pid, by, err
		}
		init, err := r.Resolve(a.pid)
		wantErr(t, "Resolve", err, ErrNoInit)
		if asked != 2 || init.PID != 0 {
			t.Errorf("asked %d times, got %+v; want 2 and no pid", asked, init)
		}
		// The same pid is now a healthy container.
		resolve(t, r, a.pid, a.pid)
	})
}

func TestPIDThatKeepsChangingIsGivenUp(t *testing.T) {
	r := newResolver(t, Config{})
	a, b := startContainer(t, "init", newPIDNS), startContainer(t, "init", newPIDNS)
	asked := 0
	r.find = func(_, _ int, _ uint64) (int, Method, error) { asked++; return b.pid, Auto, nil }
	_, err := r.Resolve(a.pid)
	wantErr(t, "Resolve", err, ErrNoInit)
	if asked != maxTries {
		t.Errorf("asked %d times, want %d", asked, maxTries)
	}
}

// TestFailureIsNotInheritedByANewNamespace: the kernel hands out the number of
// a dead namespace again at once, unless someone holds it.
func TestFailureIsNotInheritedByANewNamespace(t *testing.T) {
	r := newResolver(t, Config{ErrorTTL: time.Hour})
	a := startContainer(t, "init", newPIDNS)
	ns := nsOf(t, a.pid)
	a.kill(t)
	_, err := r.Resolve(a.pid)
	wantErr(t, "Resolve of a zombie", err, ErrNoInit)
	a.end()
	for range 20 {
		b := startContainer(t, "init", newPIDNS)
		if init := resolve(t, r, b.pid, b.pid); init.NS == ns {
			t.Fatal("the number of a namespace with a kept failure was used again")
		}
		b.end()
	}
}

func TestAnswersHoldWhileContainersDie(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		var gone atomic.Int32
		// Answers must live long enough to be hit, on a slow machine too.
		first := startContainer(t, "init", newPIDNS)
		start := time.Now()
		resolve(t, newResolver(t, Config{Method: m}), first.pid, first.pid)
		ttl := max(time.Millisecond, 2*time.Since(start))
		r := newResolver(t, Config{
			Method: m, Max: 3, TTL: ttl, ErrorTTL: time.Millisecond,
			Gone: func(uint64) { gone.Add(1) },
		})
		var current [4]atomic.Int64
		var found, hits atomic.Int32
		stop := make(chan struct{})
		var askers, churn sync.WaitGroup
		for i := range 6 {
			askers.Go(func() {
				for n := i; ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(100 * time.Microsecond): // leave the containers some CPU
					}
					pid := int(current[n%len(current)].Load())
					if pid == 0 {
						continue
					}
					init, ok, err := r.Lookup(pid)
					if !ok {
						init, err = r.Resolve(pid)
					}
					switch {
					case err == nil && (init.PID == pid || init.Host): // Host: the pid is someone else's by now
						found.Add(1)
						if init.By == Cache {
							hits.Add(1)
						}
					case errors.Is(err, ErrCallerGone), errors.Is(err, ErrNoInit):
					case errors.Is(err, errChildKilled): // the dying init kills all that is in there
					default:
						t.Errorf("init of %d: %+v, %v", pid, init, err)
					}
				}
			})
		}
		for i := range current {
			churn.Go(func() {
				// At least 10 deaths, and more, after ever longer lives, until
				// the askers got their turn.
				end := time.Now().Add(patience)
				life := 10 * time.Millisecond
				for n := 0; n < 10 || hits.Load() == 0 && time.Now().Before(end); n++ {
					c := startContainer(t, "init", newPIDNS)
					current[i].Store(int64(c.pid))
					time.Sleep(life)
					c.end()
					if life += 10 * time.Millisecond; n >= 10 {
						life *= 2
					}
				}
			})
		}
		churn.Wait()
		close(stop)
		askers.Wait()
		if found.Load() == 0 || hits.Load() == 0 {
			t.Errorf("%d answers, %d hits: the test tests nothing", found.Load(), hits.Load())
		}
		eventually(t, "all namespaces to be dropped", func() bool { return len(r.entries()) == 0 })
		if gone.Load() == 0 {
			t.Error("Gone was never called")
		}
	})
}

// entries are the living entries the watcher knows.
func (r *Resolver) entries() (es []*entry) {
	r.watch.mu.Lock()
	defer r.watch.mu.Unlock()
	for _, e := range r.watch.entries {
		es = append(es, e)
	}
	return es
}
