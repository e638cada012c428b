// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/initpid"
	"vprocfs/internal/attach"
	"vprocfs/internal/inject/watch"
	"vprocfs/internal/logqueue"
	"vprocfs/internal/supervise"
)

// watchEnv is in the environment of a process that is the watcher of a holder.
const watchEnv = "VPROCFS_WATCHER"

// fileWatcher is the name of the descriptor, a pidfd, that an upgraded holder has of
// the watcher of the former program.
const fileWatcher = "watcher"

const (
	// watcherLinger is how long a watcher goes on without its holder, so that another
	// holder can start another one meanwhile.
	watcherLinger = 5 * time.Second
	// minWatcherBackoff and maxWatcherBackoff bound how long a holder waits before it
	// starts another watcher.
	minWatcherBackoff = 200 * time.Millisecond
	maxWatcherBackoff = time.Minute
	// watcherGoodAfter is how long a watcher must run for the next to start at once.
	watcherGoodAfter = time.Minute
)

// keeper keeps a watcher running: a process of its own, so that nothing that it meets
// in a container can harm the holder.
type keeper struct {
	log   *slog.Logger
	pidfd int // of the watcher; over an upgrade it keeps its number. -1 before Linux 5.3
	once  sync.Once
	stop  chan struct{}
	ended chan struct{} // closed when no watcher runs any more
	last  lastStatus    // of the watcher that runs

	mu    sync.Mutex
	line  *os.File // to the watcher that runs, nil if none does
	level string   // of the log, empty for that of the flags
}

// newKeeper returns a keeper that has started nothing yet. former is the pidfd of the
// watcher of the program that this process was before an upgrade, or -1.
func newKeeper(former int, log *slog.Logger) *keeper {
	k := &keeper{log: log, pidfd: -1, stop: make(chan struct{}), ended: make(chan struct{})}
	if former >= 0 {
		// It ends by itself, and is a child of this process.
		go func() {
			_ = unix.Waitid(unix.P_PIDFD, former, nil, unix.WEXITED, nil) // no child: it has been waited for
			unix.Close(former)
		}()
	}
	// The number for the pidfd.
	if fd, err := unix.PidfdOpen(os.Getpid(), 0); err == nil {
		k.pidfd = fd
	}
	return k
}

// start starts the watcher, unless it was started before.
func (k *keeper) start() {
	k.once.Do(func() {
		go func() {
			defer close(k.ended)
			k.run()
		}()
	})
}

// end ends the watcher.
func (k *keeper) end() {
	k.once.Do(func() { close(k.ended) })
	close(k.stop)
	<-k.ended
}

// run starts one watcher after another until end is called.
func (k *keeper) run() {
	wait := minWatcherBackoff
	for {
		begin := time.Now()
		err := k.watch()
		select {
		case <-k.stop:
			return
		default:
		}
		if time.Since(begin) >= watcherGoodAfter {
			wait = minWatcherBackoff
		}
		k.log.Warn("the watcher has ended: starting another", "err", err, "after", wait)
		select {
		case <-k.stop:
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, maxWatcherBackoff)
	}
}

// watch runs a watcher to its end.
func (k *keeper) watch() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), watchEnv+"=1")
	cmd.Stderr = os.Stderr
	// A group of its own: what a terminal sends is for the holder.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// It ends with this process, or when an upgrade executes another program in it.
	line, theirs, err := newWatchLine()
	if err != nil {
		return err
	}
	defer line.Close()
	cmd.Stdin = theirs
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	go k.last.receive(line)
	k.setLine(line)
	defer k.setLine(nil)
	k.setPidfd(cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-k.stop:
		_ = cmd.Process.Kill() // an error means that it has ended
		return <-ended
	}
}

// status returns the last numbers of the watcher that runs. It returns nil if none does, or
// if k is nil. It does not wait.
func (k *keeper) status() *watch.Status {
	if k == nil {
		return nil
	}
	return k.last.get()
}

// setPidfd makes k.pidfd that of the process.
func (k *keeper) setPidfd(pid int) {
	if k.pidfd < 0 {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		k.log.Warn("after an upgrade the watcher's process stays a zombie", "err", err)
		return
	}
	defer unix.Close(fd)
	if err := unix.Dup3(fd, k.pidfd, unix.O_CLOEXEC); err != nil {
		k.log.Warn("after an upgrade the watcher's process stays a zombie", "err", err)
	}
}

// isWatcher reports whether a holder has started this process as its watcher.
func isWatcher() bool {
	_, ok := os.LookupEnv(watchEnv)
	return ok
}

// watchContainers attaches the containers that run and those that start, until
// SIGTERM comes, or for watcherLinger after the end of the holder.
func watchContainers(o Options, dir string) error {
	if err := os.Unsetenv(watchEnv); err != nil {
		return err
	}
	signal.Ignore(unix.SIGPIPE, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	debug.SetGCPercent(200)
	// With more, a thread of the Go runtime wakes up some sixty times after each event, to see
	// what became of the thread that waits for the next: half of the CPU time of a start.
	runtime.GOMAXPROCS(1)
	output := logqueue.New(unix.Stderr)
	defer output.Flush(logPatience)
	log := o.Log.NewLogger(output, os.Getenv("JOURNAL_STREAM") != "")
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer cancel()
	stats := new(watch.Stats)
	go tellStatus(os.Stdin, stats)
	go func() {
		followLevel(os.Stdin, &o.Log)
		time.Sleep(watcherLinger)
		cancel()
	}()
	path, err := Resolve(dir)
	if err != nil {
		return err
	}
	resolver, err := initpid.New(initpid.Config{Method: initpid.Parents})
	if err != nil {
		return err
	}
	defer resolver.Close()
	attacher := attach.NewResident(path)
	defer attacher.Close()
	if err := attacher.Prepare(); err != nil {
		return err
	}
	return watch.Run(ctx, watch.Config{
		Dir: path, Rules: o.Watch, Log: log, Attach: attacher, Owner: resolver.Outermost, Stats: stats,
	})
}

// newKeeper returns the keeper of a holder, or nil if it is to attach nothing. adopted
// is nil unless this process takes over from another one.
func (o *Options) newKeeper(adopted *supervise.Adopted, log *slog.Logger) *keeper {
	former := -1
	if adopted != nil {
		if fd, ok := adopted.Own[fileWatcher]; ok {
			former = fd
		}
	}
	if !o.Attach {
		if former >= 0 {
			unix.Close(former)
		}
		return nil
	}
	return newKeeper(former, log)
}
