// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fdStore does what systemd does with the descriptors of a service
// (sd_notify(3), FDSTORE=1), so that the real one is not needed for it.
type fdStore struct {
	path  string // of the socket
	mu    sync.Mutex
	files map[string]*os.File
	ready bool
	// said are the states that were told last; who does not listen misses some.
	said chan string
}

func newFDStore(t *testing.T) *fdStore {
	t.Helper()
	s := &fdStore{path: filepath.Join(t.TempDir(), "notify"), files: make(map[string]*os.File), said: make(chan string, 100)}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.files {
			f.Close()
		}
	})
	go func() {
		b, oob := make([]byte, 4096), make([]byte, 4096)
		for {
			n, oobn, _, _, err := l.ReadMsgUnix(b, oob)
			if err != nil {
				return // closed
			}
			s.take(string(b[:n]), oob[:oobn])
		}
	}()
	return s
}

// take takes one message.
func (s *fdStore) take(state string, oob []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.said <- state:
	default:
	}
	name, store, remove := "", false, false
	for line := range strings.Lines(state) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "FDNAME":
			name = value
		case "FDSTORE":
			store = true
		case "FDSTOREREMOVE":
			remove = true
		case "READY":
			s.ready = true
		}
	}
	if remove && s.files[name] != nil {
		s.files[name].Close()
		delete(s.files, name)
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), name)
			if !store || s.files[name] != nil {
				f.Close() // systemd drops one that is the same file
				continue
			}
			s.files[name] = f
		}
	}
}

// start starts a daemon as the service, with the descriptors that are in the store,
// and waits until it is ready.
func (s *fdStore) start(t *testing.T, dir string) *daemon {
	t.Helper()
	s.mu.Lock()
	s.ready = false
	var names []string
	var files []*os.File
	for name, f := range s.files {
		names, files = append(names, name), append(files, f)
	}
	s.mu.Unlock()
	// Only the process itself knows its pid before it runs the program.
	cmd := exec.Command("sh", "-c", `export LISTEN_PID=$$; exec vprocfs serve --keep-mount "$0"`, dir)
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+s.path, "LISTEN_FDNAMES="+strings.Join(names, ":"))
	if len(files) > 0 {
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(files)))
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(cmd, stderr, dir)
	t.Cleanup(func() { killDaemon(cmd) })
	waitFor(t, "the daemon to be ready", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.ready
	})
	return d
}

// deviceAt is the device number of the mount at path, empty for none.
func deviceAt(t *testing.T, path string) (dev string) {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[4] == path {
			dev = f[2]
		}
	}
	return dev
}

// TestTheNextStartGoesOnWithTheMount: with the descriptors that were stored, also
// where the mount point was unmounted meanwhile and only containers have the files.
func TestTheNextStartGoesOnWithTheMount(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) }) // an error says that nothing is left
	s := newFDStore(t)
	d := s.start(t, dir)
	c := startContainer(t, "--mount", dir, "--memory", "64M")
	for _, unmounted := range []bool{false, true} {
		dev := deviceAt(t, dir)
		d.killWholly(t)
		if unmounted {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}
		d = s.start(t, dir)
		checkUptime(t, dir)
		if got := memTotal(t, c.sh(t, "cat /proc/meminfo")); got != 64 {
			t.Errorf("unmounted %t: MemTotal %d MiB, want 64", unmounted, got)
		}
		for _, name := range pressureFiles() {
			if got := c.sh(t, "cat /proc/"+name+" 2>&1"); !strings.HasPrefix(got, "some ") {
				t.Errorf("unmounted %t: %s: %q", unmounted, name, got)
			}
		}
		if now := deviceAt(t, dir); now != dev {
			t.Errorf("unmounted %t: mount %q, was %q", unmounted, now, dev)
		}
	}
}

// TestALivingConnectionIsNotDropped: containers use it, though the mount point is gone or
// something is mounted over it when the next process starts.
func TestALivingConnectionIsNotDropped(t *testing.T) {
	for _, c := range []struct {
		what       string
		hide, undo func(dir string) error
		// byNext says that it takes another start until the view is at the mount point.
		byNext bool
	}{
		{
			what: "mount point removed",
			hide: func(dir string) error { return errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)) },
			undo: func(dir string) error { return os.Mkdir(dir, 0o755) }, byNext: true,
		},
		{
			what: "tmpfs over it",
			hide: func(dir string) error { return unix.Mount("none", dir, "tmpfs", 0, "") },
			undo: func(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) },
		},
		{
			what: "tmpfs in its place",
			hide: func(dir string) error {
				return errors.Join(unix.Unmount(dir, unix.MNT_DETACH), unix.Mount("none", dir, "tmpfs", 0, ""))
			},
			undo: func(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) }, byNext: true,
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "view")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
			s := newFDStore(t)
			d := s.start(t, dir)
			container := startContainer(t, "--mount", dir, "--memory", "64M")
			want := func() {
				t.Helper()
				if got := memTotal(t, container.sh(t, "cat /proc/meminfo")); got != 64 {
					t.Errorf("MemTotal %d MiB, want 64", got)
				}
			}
			want()
			d.killWholly(t)
			if err := c.hide(dir); err != nil {
				t.Fatal(err)
			}
			d = s.start(t, dir)
			want()
			if err := c.undo(dir); err != nil {
				t.Fatal(err)
			}
			if c.byNext {
				d.killWholly(t)
				s.start(t, dir)
			}
			checkUptime(t, dir)
			want()
		})
	}
}

// TestWhatIsOfNoUseLeavesTheStore: a stored descriptor would keep the connection
// alive, and readers in containers waiting, with nobody to answer.
func TestWhatIsOfNoUseLeavesTheStore(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() {
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	s := newFDStore(t)
	d := s.start(t, dir)
	c := startContainer(t, "--mount", dir, "--memory", "64M")
	d.killWholly(t)
	s.mu.Lock()
	stored := len(s.files)
	s.files["vprocfs-journal"].Close()
	delete(s.files, "vprocfs-journal")
	s.mu.Unlock()
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	s.start(t, dir)
	checkUptime(t, dir)
	wantDead(t, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) != stored {
		t.Errorf("%d descriptors in the store, were %d", len(s.files), stored)
	}
}
