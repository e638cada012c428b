// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// token is what the content of torn repeats: content that was put together of two
// makings has two different ones.
func token() string { return fmt.Sprintf("%016x\n", rand.Uint64()) }

// torn is a Source whose content is different each time, from process to process
// too. Of its files meminfo is slow, and slabinfo is what the process dies of.
func torn(dst []byte, n fs.NodeID, t *fs.Turn) ([]byte, error) {
	switch n {
	case fs.NodeUptime:
		return append(dst, strings.Repeat(token(), 2)...), nil // fits into a handle
	case fs.NodeMeminfo:
		if err := t.Block(0); err != nil {
			return dst, err
		}
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	case fs.NodeSlabinfo:
		go panic("slabinfo")
		select {}
	}
	return append(dst, strings.Repeat(token(), 100)...), nil
}

// isWhole tells whether a content of torn is one.
func isWhole(s string) bool {
	const n = 17
	return len(s) == 2*n && s == strings.Repeat(s[:n], 2) || len(s) == 100*n && s == strings.Repeat(s[:n], 100)
}

// The descriptors that a worker process is given.
const (
	workerFuse    = 3
	workerJournal = 4
	workerLife    = 5 // end of file says that the tests are over
)

// helperWorker is the main function of a process that serves until it is killed.
func helperWorker(after string) error {
	go func() {
		_, _ = unix.Read(workerLife, make([]byte, 1))
		os.Exit(1)
	}()
	j, conn, err := fs.OpenJournal(workerJournal, workerFuse)
	if err != nil {
		return err
	}
	return fs.NewTestServer(conn, sourceFunc(torn), fs.ServerOptions{Journal: j, Crashed: after == "crash", Workers: 4}).Serve()
}

// held is a mount that is served by processes of their own, one after the other.
type held struct {
	dir           string
	fuse, journal *os.File
	life          *os.File
	worker        *exec.Cmd
}

func (m *held) path(name string) string { return m.dir + "/proc/" + name }

func hold(t testing.TB) *held {
	t.Helper()
	m := &held{dir: tempDir(t)}
	conn, err := fs.Mount(m.dir, fs.MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j, err := fs.NewJournal(conn, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := j.Leave()
	if err != nil {
		t.Fatal(err)
	}
	m.fuse, m.journal = os.NewFile(uintptr(conn.FD()), "fuse"), os.NewFile(uintptr(fd), "journal")
	life, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	m.life = life
	m.start(t, "")
	t.Cleanup(func() {
		if err := fs.Unmount(m.dir); err != nil {
			t.Error(err)
		}
		m.worker.Process.Kill()
		m.worker.Wait()
		m.fuse.Close()
		m.journal.Close()
		life.Close()
		end.Close()
	})
	// The first close(2) of a file is a FLUSH, and then there are none. A process
	// that starts workers must not have to wait for one: exec closes files.
	if got, err := readAll(m.path("uptime")); !isWhole(got) {
		t.Fatalf("%q %v", got, err)
	}
	return m
}

// start starts a worker after the end of another.
func (m *held) start(t testing.TB, after string) {
	t.Helper()
	m.worker = helper("worker", after, "0")
	m.worker.ExtraFiles = []*os.File{m.fuse, m.journal, m.life}
	if after != "crash" {
		m.worker.Stderr = os.Stderr
	}
	if err := m.worker.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill replaces the worker.
func (m *held) kill(t testing.TB) {
	t.Helper()
	if err := m.worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	m.worker.Wait()
	m.start(t, "")
}

// readInPieces reads path to its end with a buffer of size bytes, and fails where
// what it reads was not made at once.
func readInPieces(path string, size int, longest *atomic.Int64) error {
	start := time.Now()
	timed := func() {
		now := time.Now()
		if d := int64(now.Sub(start)); d > longest.Load() {
			longest.Store(d)
		}
		start = now
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	timed()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if size%2 == 0 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("fstat: %w", err)
		}
		timed()
	}
	var all []byte
	buf := make([]byte, size)
	for {
		n, err := unix.Read(fd, buf)
		timed()
		if err == unix.EINTR {
			continue // a signal of Go's scheduler
		}
		if err != nil {
			return fmt.Errorf("read at %d: %w", len(all), err)
		}
		if n == 0 {
			break
		}
		all = append(all, buf[:n]...)
	}
	if !isWhole(string(all)) {
		return fmt.Errorf("torn content of %d bytes in pieces of %d", len(all), size)
	}
	return nil
}

// kills is how often a worker is killed by the tests here.
const kills = 40

func TestKilledWorkersAreNotNoticed(t *testing.T) {
	m := hold(t)
	var stop atomic.Bool
	var reads, longest atomic.Int64
	var wg sync.WaitGroup
	for i, size := range []int{1, 7, 100, 4096, 1 << 16, 1, 64, 1 << 16} {
		for _, name := range []string{"uptime", "stat", "meminfo"} {
			wg.Go(func() {
				runtime.LockOSThread()
				for !stop.Load() {
					if err := readInPieces(m.path(name), size, &longest); err != nil {
						t.Errorf("reader %d of %s: %v", i, name, err)
						return
					}
					reads.Add(1)
				}
			})
		}
	}
	for range kills {
		// A worker on a busy machine must have come to its work.
		before := reads.Load()
		eventually(t, "something is read", func() bool { return t.Failed() || reads.Load() > before })
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		m.kill(t)
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d files read whole over %d kills; the longest system call took %v", reads.Load(), kills, time.Duration(longest.Load()))
}

// The reads that a worker has in hand when it is killed are many here: it works on
// some, others wait in its queue.
func TestSlowReadsInHandOutliveTheWorker(t *testing.T) {
	m := hold(t)
	var longest atomic.Int64
	for range 5 {
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				runtime.LockOSThread()
				if err := readInPieces(m.path("meminfo"), 512, &longest); err != nil {
					t.Error(err)
				}
			})
		}
		for range 3 {
			time.Sleep(10 * time.Millisecond)
			m.kill(t)
		}
		wg.Wait()
	}
}

func TestAHandleGoesOnInTheSameTextAfterAKill(t *testing.T) {
	m := hold(t)
	for _, name := range []string{"uptime", "stat", "meminfo"} {
		fd := open(t, m.path(name))
		got := pread(t, fd, 20, 0)
		m.kill(t)
		got += pread(t, fd, 5, 20)
		m.kill(t)
		got += pread(t, fd, 1<<16, 25)
		if !isWhole(got) {
			t.Errorf("%s: %q", name, got)
		}
		m.kill(t)
		if again := pread(t, fd, 1<<16, 0); !isWhole(again) || again == got {
			t.Errorf("%s from its start again: %q", name, again)
		}
	}
}

// What a worker crashes of must not keep all others from being served.
func TestARequestThatCrashesWorkersIsRefused(t *testing.T) {
	m := hold(t)
	results := make(chan error, 1)
	go func() {
		_, err := readAll(m.path("slabinfo"))
		results <- err
	}()
	for crashes := 0; ; {
		ended := make(chan error, 1)
		go func() { ended <- m.worker.Wait() }()
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Fatalf("the worker: %v", err)
			}
			if crashes++; crashes > 5 {
				t.Fatal("the workers go on crashing")
			}
			m.start(t, "crash")
			continue
		case err := <-results:
			if err != unix.EIO {
				t.Errorf("the read: %v, want EIO", err)
			}
		case <-time.After(deadline):
			t.Fatal("no answer")
		}
		// The Wait above goes on, for a worker that lives.
		if got, err := readAll(m.path("stat")); err != nil || !isWhole(got) {
			t.Errorf("afterwards: %q %v", got, err)
		}
		m.worker.Process.Kill()
		<-ended
		m.start(t, "")
		t.Logf("%d crashes", crashes)
		return
	}
}

func TestPingComesThroughTheReader(t *testing.T) {
	m := serve(t, constant("content"), fs.ServerOptions{})
	if err := m.srv.Ping(deadline); !errors.Is(err, fs.ErrNoFile) {
		t.Fatalf("before anything is opened: %v", err)
	}
	fd, err := unix.Open(m.path("stat"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := m.srv.Ping(deadline); err != nil {
			t.Fatal(err)
		}
	}
	if !fs.Connected(m.conn.FD()) {
		t.Error("a live connection is not alive")
	}
	if got, err := readAll(m.path("uptime")); got != "content" {
		t.Errorf("afterwards: %q %v", got, err)
	}
	m.srv.Stop()
	// The reader takes one more request, and then none.
	for err := error(nil); err == nil; err = m.srv.Ping(100 * time.Millisecond) {
	}
	if err := m.srv.Ping(100 * time.Millisecond); !errors.Is(err, fs.ErrNoPong) {
		t.Errorf("nobody reads: %v", err)
	}
	// Nobody answers what the mount may ask when it ends.
	next := fs.NewTestServer(fs.NewConn(m.conn.FD()), constant("content"), fs.ServerOptions{})
	served := make(chan error, 1)
	go func() { served <- next.Serve() }()
	unix.Close(fd)
	if err := fs.Unmount(m.dir); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	eventually(t, "the connection is over", func() bool { return !fs.Connected(m.conn.FD()) })
}
