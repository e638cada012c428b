// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	RunHelper()
	os.Exit(m.Run())
}

// hangingMount mounts a FUSE file system that answers no request. It is unmounted when the
// test ends.
func hangingMount(t *testing.T) (dir string) {
	t.Helper()
	dir, _ = releasableMount(t)
	return dir
}

// releasableMount also returns a function that ends the hanging.
func releasableMount(t *testing.T) (dir string, release func()) {
	t.Helper()
	dir = t.TempDir()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("hanging", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		unix.Close(fd) // requests that wait get an error
	})
	t.Cleanup(release)
	return dir, release
}

// outcome is what became of a job.
type outcome struct {
	results []Result
	err     error
}

// submit has the helper do a job, and returns where the outcome will be.
func submit(r *Resident, j job) chan outcome {
	c := make(chan outcome, 1)
	r.start(j, func(results []Result, err error) { c <- outcome{results, err} })
	return c
}

// do is submit, and waits.
func (r *Resident) do(j job) ([]Result, error) {
	o := <-submit(r, j)
	return o.results, o.err
}

// healthy is the error of a job that probes a file that is on no FUSE mount.
const healthy = "not a file of a FUSE mount"

func TestJobThatHangsDelaysNoOther(t *testing.T) {
	r := NewResident("")
	r.patience = time.Minute // for a loaded machine
	defer r.Close()
	if err := r.Prepare(); err != nil {
		t.Fatal(err)
	}
	first := r.cur
	dir := hangingMount(t)
	// In the same process as what follows.
	hung := submit(r, job{Probe: filepath.Join(dir, "x")})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := r.do(job{Probe: "/proc/uptime"}); err == nil || !strings.Contains(err.Error(), healthy) {
				t.Errorf("a job beside one that hangs: %v", err)
			}
		})
	}
	all.Wait()
	if r.cur != first {
		t.Error("another process has done the jobs")
	}
	select {
	case o := <-hung:
		t.Fatalf("the job did not hang: %v", o.err)
	default:
	}
}

// TestProcessWithAJobThatHangsIsReplaced, and killed when its other jobs have ended.
func TestProcessWithAJobThatHangsIsReplaced(t *testing.T) {
	r := NewResident("")
	r.patience = time.Minute
	defer r.Close()
	if err := r.Prepare(); err != nil {
		t.Fatal(err)
	}
	first := r.cur
	dir, release := releasableMount(t)
	other := submit(r, job{Probe: filepath.Join(dir, "x")}) // it may take its time
	r.patience = 100 * time.Millisecond
	_, err := r.do(job{Probe: filepath.Join(hangingMount(t), "x")})
	if !IsHung(err) || IsGone(err) {
		t.Fatalf("a job that hangs: %v", err)
	}
	r.patience = time.Minute
	if _, err := r.do(job{Probe: "/proc/uptime"}); err == nil || !strings.Contains(err.Error(), healthy) {
		t.Errorf("a job after one that hung: %v", err)
	}
	if r.cur == first {
		t.Error("the process that has a job that hangs gets more jobs")
	}
	select {
	case <-first.dead:
		t.Error("a process was killed though it has another job")
	default:
	}
	release()
	if o := <-other; o.err == nil || IsHung(o.err) || errors.Is(o.err, ErrEnded) {
		t.Errorf("the other job: %v", o.err)
	}
	select {
	case <-first.dead:
	case <-time.After(time.Minute):
		t.Error("the process was not killed")
	}
}

func TestResidentHelperThatDiesIsReplaced(t *testing.T) {
	r := NewResident("")
	r.patience = time.Minute
	defer r.Close()
	if err := r.Prepare(); err != nil {
		t.Fatal(err)
	}
	first := r.cur
	hung := submit(r, job{Probe: filepath.Join(hangingMount(t), "x")})
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if o := <-hung; !errors.Is(o.err, ErrEnded) {
		t.Errorf("a job of a process that died: %v", o.err)
	}
	if _, err := r.do(job{Probe: "/proc/uptime"}); err == nil || !strings.Contains(err.Error(), healthy) {
		t.Errorf("the next job: %v", err)
	}
}

func TestResidentTellsAProcessThatHasEnded(t *testing.T) {
	r := NewResident("")
	r.patience = time.Minute
	defer r.Close()
	const none = 1 << 22 // PID_MAX_LIMIT
	if _, err := r.do(job{PID: none}); !IsGone(err) || IsHung(err) {
		t.Errorf("a process that has ended: %v", err)
	}
	if _, err := r.AttachAlone(t.Context(), none, 0); !IsGone(err) {
		t.Errorf("a process that has ended, alone: %v", err)
	}
}

// TestStoppedHelperIsReplaced: when its socket is full, nobody waits for it.
func TestStoppedHelperIsReplaced(t *testing.T) {
	r := NewResident("")
	r.patience = time.Minute
	defer r.Close()
	if err := r.Prepare(); err != nil {
		t.Fatal(err)
	}
	first := r.cur
	if err := first.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for n := 0; r.cur == first; n++ {
		if n > 10_000 {
			t.Fatal("the socket is never full")
		}
		submit(r, job{Probe: "/proc/uptime"})
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the jobs waited %s", took)
	}
	if _, err := r.do(job{Probe: "/proc/uptime"}); err == nil || !strings.Contains(err.Error(), healthy) {
		t.Errorf("the next job: %v", err)
	}
}

// TestRecycledPidIsNotAttached: by the time of a job the pid may belong to a process of
// another container. It is told by the mount namespace, and nothing is mounted there.
func TestRecycledPidIsNotAttached(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	r := NewResident("/nowhere")
	r.patience = time.Minute
	defer r.Close()
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", cmd.Process.Pid), &st); err != nil {
		t.Fatal(err)
	}
	fast := func(_ context.Context, pid int, ns uint64) ([]Result, error) {
		return r.do(job{PID: pid, NS: ns, Dir: r.dir})
	}
	for _, attach := range []func(context.Context, int, uint64) ([]Result, error){fast, r.AttachAlone} {
		if _, err := attach(t.Context(), cmd.Process.Pid, st.Ino+1); !IsGone(err) {
			t.Errorf("a process in another mount namespace: %v", err)
		}
		// The test tests something: in the right one it goes on, to a daemon that is not there.
		if _, err := attach(t.Context(), cmd.Process.Pid, st.Ino); err == nil || IsGone(err) {
			t.Errorf("a process in its mount namespace: %v", err)
		}
	}
}

// TestMountNamespaceIsLocked: two who attach at once would mount a file twice.
func TestMountNamespaceIsLocked(t *testing.T) {
	open := func() *container {
		fd, err := unix.Open("/proc/self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return &container{root: -1, fds: -1, ns: fd}
	}
	first, second := open(), open()
	first.lock()
	if err := unix.Flock(second.ns, unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatalf("the lock of a locked namespace: %v", err)
	}
	locked := make(chan struct{})
	go func() {
		second.lock()
		close(locked)
	}()
	first.close()
	<-locked
	defer second.close()
	third := open()
	defer third.close()
	third.lock() // gives up
	if err := unix.Flock(third.ns, unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("the second has no lock: %v", err)
	}
}

func TestErrorsOfHelpersKeepTheirKind(t *testing.T) {
	occupied := Result{Target: "/proc/stat", State: Failed, Err: fmt.Errorf("%w, of type tmpfs", errOccupied)}
	a := newAnswer(occupied)
	if got := a.result(); !IsOccupied(got.Err) || got.Err.Error() != occupied.Err.Error() {
		t.Errorf("%v", got.Err)
	}
	a = newAnswer(Result{Target: "/proc/stat", State: Failed, Err: errors.New("another")})
	if got := a.result(); IsOccupied(got.Err) || got.Err == nil {
		t.Errorf("%v", got.Err)
	}
	for _, err := range []error{errGone, ErrNotPivoted, errors.New("other"), nil} {
		a := endAnswer(err)
		if got := a.err(); IsGone(got) != IsGone(err) || errors.Is(got, ErrNotPivoted) != errors.Is(err, ErrNotPivoted) || (got == nil) != (err == nil) {
			t.Errorf("%v became %v", err, got)
		}
	}
}
